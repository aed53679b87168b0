"""Tests of stop strings: they are found in any split of the text, and no part of them is shown."""

import itertools

import pytest
from tokenizers import Tokenizer

from mindnlp_ocr.processing.chat import TextStream
from mindnlp_ocr.sampling import Sent, StopStrings
from tests.processing.test_chat import PROCESSOR


def through(stops: StopStrings, pieces: list[str]) -> tuple[str, str | None]:
    shown = ""
    for piece in pieces:
        sent = stops.feed(piece)
        shown += sent.text
        assert stops.length == len(shown)
        if sent.stop:
            return shown, sent.stop
    return shown + stops.end(), None


def cuts(text: str) -> list[list[str]]:
    """Every way to cut a text into pieces."""
    ways = []
    for number in range(len(text)):
        for places in itertools.combinations(range(1, len(text)), number):
            edges = (0, *places, len(text))
            ways.append([text[a:b] for a, b in itertools.pairwise(edges)])
    return ways


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one ENDtwo", ["END"], ("one ", "END")),
        ("aab aaab", ["aaab"], ("aab ", "aaab")),
        ("ababac", ["abac"], ("ab", "abac")),
        ("no stop EN", ["END"], ("no stop EN", None)),
        ("xabcdy", ["bcd", "abc"], ("x", "abc")),  # the one that is complete first
        ("xabcdy", ["cd", "bcd"], ("xa", "bcd")),  # with the same character, the longest
        ("\n\n\nx", ["\n\n"], ("", "\n\n")),
        ("价格：完", ["：完"], ("价格", "：完")),
        ("", ["END"], ("", None)),
        ("plain", [], ("plain", None)),
    ],
)
def test_a_text_ends_alike_however_it_is_cut(text: str, stops: list[str], expected: tuple[str, str | None]) -> None:
    for pieces in cuts(text):
        assert through(StopStrings(stops), pieces) == expected


def test_nothing_of_a_stop_string_is_shown_before_it_is_sure_to_be_none() -> None:
    stops = StopStrings(["</page>"])
    assert [stops.feed(piece).text for piece in "a</pa</page"] == ["a", "", "", "", "", "</pa", "", "", "", "", ""]
    assert stops.feed(">") == Sent("", "</page>")
    assert stops.end() == ""
    with pytest.raises(ValueError, match="the text has ended"):
        stops.feed("x")


def test_a_stop_string_is_shown_where_it_is_included() -> None:
    for pieces in cuts("ab END c"):
        assert through(StopStrings(["END"], include=True), pieces) == ("ab END", "END")


def test_a_stop_string_before_the_minimum_does_not_end_the_text() -> None:
    stops = StopStrings(["END"])
    assert stops.feed("END EN", may_stop=False) == Sent("END EN", None)
    assert stops.feed("D") == Sent("D", None)
    assert stops.feed(" END") == Sent(" ", "END")


def test_pieces_of_the_detokeniser_with_and_without_special_tokens(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("Total 5 元\nEND of page", add_special_tokens=False).ids, 8130]
    for skip, whole in ((True, "Total 5 元\nEND of page"), (False, "Total 5 元\nEND of page<|im_end|>")):
        stream = TextStream(tokenizer, skip)
        pieces = [stream.feed(token) for token in ids]
        assert "".join(pieces) + stream.end() == whole == tokenizer.decode(ids, skip_special_tokens=skip)
        assert through(StopStrings(["\nEND"]), pieces) == ("Total 5 元", "\nEND")
    stream = TextStream(tokenizer, False)
    assert through(StopStrings(["<|im_end|>"]), [stream.feed(token) for token in ids]) == (
        "Total 5 元\nEND of page",
        "<|im_end|>",
    )


@pytest.mark.parametrize("skip", [True, False])
def test_a_processor_decodes_and_streams_special_tokens_where_they_are_asked_for(skip: bool) -> None:
    ids = [*PROCESSOR.tokenizer.encode("ab <fcel>", add_special_tokens=False).ids, 8130]
    stream = PROCESSOR.stream(skip_special_tokens=skip)
    expected = "ab " if skip else "ab <fcel><|im_end|>"
    assert PROCESSOR.decode(ids, skip_special_tokens=skip) == expected
    assert "".join(stream.feed(token) for token in ids) + stream.end() == expected
