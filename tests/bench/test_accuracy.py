"""Tests of error counts in handmade texts, and of the pages of a data set."""

from pathlib import Path

import pytest

from mindnlp_ocr.bench.accuracy import (
    Page,
    Score,
    WordScore,
    dataset,
    datasets,
    difference,
    order_of,
    own_datasets,
    score,
    totals,
    word_score,
)
from mindnlp_ocr.errors import SetupError


@pytest.mark.parametrize(
    ("truth", "reading", "expected"),
    [
        ("Total 20", "Total 20", Score(8, 0, 2, 0, 1, 1)),
        ("Total 20", "Tatal 2O", Score(8, 2, 2, 2, 1, 0)),
        ("Total 20", "Total", Score(8, 3, 2, 1, 1, 0)),
        ("Total", "Total 20", Score(5, 3, 1, 1, 1, 0)),
        ("Total", "", Score(5, 5, 1, 1, 1, 0)),
        ("Total", None, Score(5, 5, 1, 1, 1, 0)),
        ("", "", Score()),
        ("", "ab c", Score(0, 4, 0, 2, 0, 0)),
        ("", None, Score()),
        ("a\r\nb  \rc\n\n", "a\nb\nc", Score(5, 0, 3, 0, 3, 3)),
        ("a\n\nb", "a\nb", Score(4, 1, 2, 0, 2, 2)),  # an empty line is a character, but no line
        ("  a", "a", Score(3, 2, 1, 0, 1, 0)),  # a blank in front counts
        ("one\ntwo\nthree", "two\none\nthree", Score(13, 6, 3, 2, 3, 2)),  # in the same order
        ("会议室 Room 305", "会议宝 Room 305", Score(12, 1, 5, 1, 1, 0)),
        ("共 3 页。", "共3页。", Score(6, 2, 4, 0, 1, 0)),  # a Chinese character is a word, wherever blanks are
        ("Ａ", "A", Score(1, 1, 1, 1, 1, 0)),
    ],
)
def test_figures_are_exact(truth: str, reading: str | None, expected: Score) -> None:
    assert score(truth, reading) == expected


@pytest.mark.parametrize(
    ("truth", "reading", "expected"),
    [
        ("共 3 页：A B", "共3页:AB", Score(6, 0, 5, 2, 1, 1)),  # words are still parted by blanks
        ("a b\ncd", "ab c\nd", Score(4, 0, 3, 3, 2, 0)),  # lines are still lines
        ("ｆｉ１", "ﬁ1", Score(3, 0, 1, 0, 1, 1)),
        ("a\u3000b", "ab\f", Score(2, 0, 2, 2, 1, 1)),
        ("abc", None, Score(3, 3, 1, 1, 1, 0)),
    ],
)
def test_loose_leaves_out_white_space_and_the_width_of_characters(truth: str, reading: str | None, expected: Score) -> None:
    assert score(truth, reading, loose=True) == expected


def test_rates_are_by_the_truth_and_may_exceed_100() -> None:
    read = score("ab\ncd ef", "ab\ncd eX")
    assert (read.cer_percent, read.wer_percent, read.exact_percent) == (12.5, 100 / 3, 50.0)
    assert score("a", "abc").cer_percent == 200
    assert score("", "abc").cer_percent == 300
    assert (Score().cer_percent, Score().wer_percent, Score().exact_percent) == (0, 0, 100)


def test_totals_sum_errors_and_do_not_average_rates() -> None:
    pages = [Page("a.png", "x"), Page("b.png", "y" * 9), Page("c.png", "会议"), Page("d.png", "")]
    readings = ["z", "y" * 9, "会", ""]
    scores = [score(page.truth, reading) for page, reading in zip(pages, readings, strict=True)]
    rows = {row["language"]: row for row in totals(pages, scores)}
    assert list(rows) == ["all", "en", "zh", "blank"]
    assert [row["pages"] for row in rows.values()] == [4, 2, 1, 1]
    assert (rows["all"]["character_errors"], rows["all"]["characters"]) == (2, 12)
    assert [row["cer_percent"] for row in rows.values()] == [100 * 2 / 12, 10, 50, 0]


def test_a_page_is_chinese_from_a_fifth_of_cjk_characters_on() -> None:
    languages = [Page("", text).language for text in ("会 a b c d", "会 a b c d e", "12:30", " \n", "ひらがな")]
    assert languages == ["zh", "en", "en", "blank", "zh"]


def test_a_difference_gives_both_texts_again() -> None:
    truth, reading = "Invoice No: 17\nTotal 20", "Invoce No 18\nTotal 200"
    pieces = difference(truth, reading)
    assert "".join(text for kind, text in pieces if kind != "extra") == truth
    assert "".join(text for kind, text in pieces if kind != "missing") == reading
    assert [piece for piece in pieces if piece[0] != "same"] == [
        ("missing", "i"),
        ("missing", ":"),
        ("missing", "7"),
        ("extra", "8"),
        ("extra", "0"),
    ]
    assert difference("", "a") == [("extra", "a")]


# Words without order, and order without words


@pytest.mark.parametrize(
    ("truth", "reading", "expected"),
    [
        ("a b c d", "a b c d", WordScore(4, 4, 4, 4, 4.0)),
        ("a b c d", "d c b a", WordScore(4, 4, 4, 4, 0.0)),
        ("a b c d", "c d a b", WordScore(4, 4, 4, 4, 4 * (1 - 4 / 6))),
        ("a a b c", "a c x b a a", WordScore(4, 6, 4, 2, 0.0)),  # a word that occurs twice has no place
        ("a b", "a x", WordScore(2, 2, 1, 0, 0.0)),
        ("a b", None, WordScore(2, 0, 0, 0, 0.0)),
        ("", "", WordScore()),
        ("会议 B", "议会 b", WordScore(3, 3, 2, 2, 0.0)),
    ],
)
def test_words_are_counted_without_order_and_order_by_itself(truth: str, reading: str | None, expected: WordScore) -> None:
    assert word_score(truth, reading) == expected


def test_recall_precision_f1_and_order_of_several_pages() -> None:
    both = word_score("a b c d", "a b x y z z") + word_score("a b c", "c b a")
    assert (both.recall_percent, both.precision_percent, both.f1_percent) == (100 * 5 / 7, 100 * 5 / 9, 1000 / 16)
    assert both.order == 2 / 5  # two words in order, three reversed
    assert (WordScore().recall_percent, WordScore().precision_percent, WordScore().f1_percent) == (100, 100, 100)
    assert WordScore().order is None


def test_order_is_the_share_of_pairs_in_order() -> None:
    assert [order_of(places) for places in ([], [5], [1, 2], [2, 1], [3, 1, 2], [1, 3, 2, 4])] == [
        *(None, None, 1, 0),
        pytest.approx(1 / 3),
        pytest.approx(5 / 6),
    ]


def test_case_is_ignored_on_request() -> None:
    assert score("Total RM", "TOTAL rm", ignore_case=True) == Score(8, 0, 2, 0, 1, 1)
    assert word_score("Total RM", "TOTAL rm", ignore_case=True).found == 2
    assert word_score("Total RM", "TOTAL rm").found == 0


# Data sets


def test_a_folder_has_the_images_with_a_text_beside_them_and_names_the_others(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c.png", "d.txt"):
        (tmp_path / name).touch()
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbftruth\r\n")
    (tmp_path / "b.txt").touch()
    pages, without = dataset(str(tmp_path))
    assert pages == [Page(str(tmp_path / "a.JPG"), "truth\n"), Page(str(tmp_path / "b.png"), "")]
    assert without == [str(tmp_path / "c.png")]
    assert dataset(str(tmp_path / "b.png")) == ([pages[1]], [])


def test_a_jsonl_names_images_from_where_it_is(tmp_path: Path) -> None:
    lines = '\ufeff{"image": "scans/a.png", "text": "会\\r\\n议"}\r\n\n{"image": "/b.png", "text": "", "more": 1}'
    (tmp_path / "pages.jsonl").write_text(lines, encoding="utf-8")
    pages, without = dataset(str(tmp_path / "pages.jsonl"))
    assert pages == [Page(str(tmp_path / "scans" / "a.png"), "会\r\n议"), Page("/b.png", "")]
    assert without == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"image": "a.png"}', "text: Field required"),
        (b'{"image": "a.png", "text": 7}', "text: Input should be a valid string"),
        (b'["a.png", "text"]', "Input should be an object"),
        (b'{"image": "a.png", ', "Invalid JSON: "),
        (b'{"image": "a.png", "text": "\xff"}', "Invalid JSON: "),
    ],
)
def test_a_bad_line_of_a_jsonl_is_named_by_file_and_number(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "pages.jsonl"
    path.write_bytes(b'{"image": "a.png", "text": ""}\n\n' + line)
    with pytest.raises(SetupError) as raised:
        dataset(str(path))
    assert str(raised.value).startswith(f"{path}:3 is not a page ({reason}")
    assert str(raised.value).endswith('): use {"image": PATH, "text": TRUTH}')


def test_what_has_no_page_with_a_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "bad.png").touch()
    for name in ("", "a.png", "empty.jsonl"):
        with pytest.raises(SetupError, match=r"has no page with its text: put page\.txt next to page\.png"):
            dataset(str(tmp_path / name))
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    for name, message in (
        ("none", "does not exist"),
        ("bad.txt", "is not a data set"),
        ("bad.png", "save the text of bad.png"),
    ):
        with pytest.raises(SetupError, match=message):
            dataset(str(tmp_path / name))


def test_the_projects_own_pages_are_28() -> None:
    pages, without = datasets(own_datasets())
    assert (len(pages), without) == (28, [])
    assert pages[0].image == "tests/pages/alpha_308x140.png"
    assert {page.language for page in pages} == {"zh", "en", "blank"}
