"""Tests of the repetition guard: it finds endless repetition, and ignores repetition on real pages."""

import json
import random

import pytest
from tokenizers import Tokenizer

from mindnlp_ocr.sampling import RepetitionGuard, find_loop
from mindnlp_ocr.sampling.repetition import EVERY, repeats_needed
from tests.conftest import ROOT

LABEL = "Fragile\n"
# What a page may hold, each at its largest.
PAGES = {
    "form of zeros": "Qty Price Sum\n" + "0.00 0.00 0.00\n" * 30,
    "long form of zeros": "0.00 0.00 0.00 0.00 0.00 0.00\n" * 60,
    "rows of one zero": "0\n" * 90,
    "empty cells": "| | | | | |\n" * 60,
    "table tokens": ("<ecel>" * 12 + "<nl>") * 60,
    "table of zeros": ("<fcel>0" * 8 + "<nl>") * 60,
    "dotted leader": "Chapter 1 " + "." * 210 + " 5\n",
    "contents": "".join(f"Chapter {n} " + "." * 120 + f" {n * 7}\n" for n in range(40)),
    "lines to write on": ("." * 120 + "\n") * 40,
    "spaced dots": ". " * 105,
    "line of dashes": "-" * 200,
    "underlines": ("_" * 90 + "\n") * 40,
    "full-width dots": "……" * 60,
    "equal labels": LABEL * 80,
    "sheet of addresses": "Anna Berg\nMain St 5\n1000 Riga\n\n" * 65,
    "blank lines": "\n" * 200,
    "ditto marks": '" " " "\n' * 60,
    "chant": "Kyrie eleison. " * 40,
    "Chinese rows": "合计 0.00 元\n" * 60,
}
LOOPS = {
    "one token": ("Total: ", "0 "),
    "dots": ("Sum ", "."),
    "word": ("The invoice of ", "the "),
    "row": ("Qty Price\n", "0.00 0.00 0.00\n"),
    "sentence": ("Dear Sir,\n", "We thank you for your order of last week. "),
    "lines of dots": ("Notes\n", "." * 40 + "\n"),
    "Chinese": ("发票\n", "合计金额人民币零元整，"),
    "paragraph": ("", "The undersigned declares that the goods named above have been received in good order. " * 3 + "\n"),
}


def tokens(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_repeats_is_left_alone(name: str, tokenizer: Tokenizer) -> None:
    ids = tokens(tokenizer, PAGES[name])
    assert len(ids) > 50
    assert not [end for end in range(1, len(ids) + 1) if find_loop(ids[:end]) is not None]


@pytest.mark.parametrize(
    "case", json.loads((ROOT / "tests/goldens/pages.json").read_text(encoding="utf-8"))["cases"], ids=lambda c: c["name"]
)
def test_the_golden_texts_hold_none(case: dict[str, list[int]]) -> None:
    ids = case["token_ids"]
    assert all(find_loop(ids[:end]) is None for end in range(len(ids) + 1))


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_is_found_where_its_second_round_begins(name: str, tokenizer: Tokenizer) -> None:
    before, unit = (tokens(tokenizer, text) for text in LOOPS[name])
    ids = before + unit * 1200
    found = next((end for end in range(len(before), len(ids)) if find_loop(ids[:end]) is not None), None)
    assert found is not None
    cut = find_loop(ids[:found])
    period = next(p for p in range(1, len(unit) + 1) if unit == (unit * 2)[p : p + len(unit)])
    # The end of what comes before may be the end of the unit too: then the loop is one that began there.
    extra = 0
    while extra < len(before) and before[-1 - extra] == (unit * (len(before) + 1))[-1 - extra]:
        extra += 1
    assert cut == len(before) - extra + period
    assert found >= repeats_needed(unit[:period]) * period


def test_a_loop_counts_only_at_the_end(tokenizer: Tokenizer) -> None:
    ids = tokens(tokenizer, "0 " * 400)
    assert find_loop(ids) is not None
    assert find_loop([*ids, *tokens(tokenizer, "Total 5")]) is None


def test_a_loop_cut_inside_its_unit_is_found() -> None:
    unit = list(range(100, 117))
    ids = [1, 2, 3] + unit * 130
    assert {find_loop(ids[: len(ids) - cut]) for cut in range(17)} == {3 + 17}


def test_random_text_holds_none() -> None:
    draw = random.Random(3)
    for kinds in (2, 3, 50):
        ids = [draw.randrange(kinds) for _ in range(3000)]
        assert find_loop(ids) is None


@pytest.mark.parametrize(
    ("unit", "repeats"),
    [([5], 256), ([5, 6], 128), ([5, 5, 5, 6], 128), ([5, 6, 7], 100), (list(range(20)), 100), (list(range(100)), 21)],
)
def test_how_often_a_unit_may_stand(unit: list[int], repeats: int) -> None:
    assert repeats_needed(unit) == repeats
    assert find_loop(unit * repeats) == len(unit)
    assert find_loop((unit * repeats)[:-1]) is None


def test_the_guard_looks_once_in_a_while_and_again_when_tokens_are_taken_back() -> None:
    guard, ids = RepetitionGuard(), [9] * 400
    looks = [length for length in range(1, 400) if guard.check(ids[:length]) is not None]
    assert looks == list(range(256, 400, EVERY))
    assert guard.check(ids[:300]) == 1  # fewer than before: looked at anew
    assert guard.check(ids[:301]) is None
