"""Tests of tools/evaluate.py on a few small pages, in this process and with the shared model."""

import base64
import json
import re
import shutil
from functools import partial
from pathlib import Path

import pytest

from mindnlp_ocr.bench.gallery import Entry
from mindnlp_ocr.bench.results import Results
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
from tests.conftest import ROOT, case
from tests.tools.conftest import Tool

WORD, LINE = "tests/pages/word_56x56.png", "tests/pages/line_392x28.png"


@pytest.fixture
def run(model: Qwen2VLModel, monkeypatch: pytest.MonkeyPatch, tool: Tool) -> Tool:
    """The tool, with the model of other tests; its exit status."""
    monkeypatch.setattr("mindnlp_ocr.opening.load_model", lambda arguments: model)
    return partial(tool, "evaluate")


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Two pages, of which one has a truth of other text, one that is broken, and one without a truth."""
    scans = tmp_path / "scans"
    scans.mkdir()
    for name, truth in (("word", case("word_56x56")["text"]), ("line", "<script>alert(1)</script>"), ("broken", "1234\n")):
        shutil.copy(LINE if name == "line" else WORD, scans / f"{name}.png")
        (scans / f"{name}.txt").write_text(truth, encoding="utf-8")
    (scans / "broken.png").write_bytes((ROOT / WORD).read_bytes()[:100])
    shutil.copy(WORD, scans / "alone.png")
    return scans


def test_good_pages_exit_0_with_their_figures(run: Tool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(WORD, LINE, "--max-cer", 0, "--output", tmp_path / "new" / "a.json", "--batch-size", 2) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("all       2 pages: CER  0.000 % (0 of ")
    assert printed.err == ""
    results = Results.load(tmp_path / "new" / "a.json")
    assert results.tool == "evaluate"
    settings = {"model": "qwen2vl-ocr-tiny", "prompt": "Extract all text from this image.", "loose": False}
    assert results.row("settings").items() >= settings.items()
    assert [row["language"] for row in results.sections["totals"].rows] == ["all", "en"]
    assert [row["page"] for row in results.sections["pages"].rows] == [WORD, LINE]
    characters = len(case("word_56x56")["text"]) + len(case("line_392x28")["text"])
    assert results.row("totals", language="all").items() >= {"characters": characters, "character_errors": 0}.items()


def test_a_page_that_cannot_be_read_is_all_wrong_and_named_and_the_others_are_read(
    run: Tool, scans: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(scans, "--output", tmp_path / "a.json") == 1
    printed = capsys.readouterr()
    bad = scans / "broken.png"
    assert f"skipped: {scans / 'alone.png'} has no ground truth next to it (alone.txt)\n" in printed.err
    assert f"error: {bad}: {bad} is truncated or damaged (" in printed.err
    assert f"  {bad}: 4 of 4 characters, not read: {bad} is truncated or damaged (" in printed.out
    line, broken, word = Results.load(tmp_path / "a.json").sections["pages"].rows  # the worst first
    assert (broken["page"], broken["cer_percent"], broken["exact_lines"]) == (str(bad), 100, 0)
    assert str(broken["error"]).startswith(f"{bad} is truncated or damaged (")
    assert (line["page"], line["error"]) == (str(scans / "line.png"), None)
    assert float(str(line["cer_percent"])) >= 100
    assert (word["character_errors"], word["error"]) == (0, None)


def test_a_jsonl_and_a_rate_above_max_cer_exit_1(run: Tool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = case("word_56x56")["text"]
    shutil.copy(WORD, tmp_path / "word.png")
    rows = [{"image": "word.png", "text": truth} for truth in (text, text + "x", "x" + text)]
    (tmp_path / "pages.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert run(tmp_path / "pages.jsonl", "--max-cer", 90, "--worst", 1) == 0
    printed = capsys.readouterr()
    characters = 3 * len(text) + 2
    assert f" (2 of {characters} characters)" in printed.out
    assert printed.out.count(f": 1 of {len(text) + 1} characters\n") == 1
    assert run(tmp_path / "pages.jsonl", "--max-cer", 1) == 1
    printed = capsys.readouterr()
    assert printed.err == f"error: the CER is {200 / characters:.4g} %, --max-cer 1: see the worst pages\n"
    assert printed.out.count(f": 1 of {len(text) + 1} characters\n") == 2


def test_loose_forgives_blanks_and_widths(run: Tool, tmp_path: Path) -> None:
    text = case("line_392x28")["text"]
    shutil.copy(LINE, tmp_path / "line.png")
    wide = "".join(chr(ord(letter) + 0xFEE0) if "!" <= letter <= "~" else "  " for letter in text)
    (tmp_path / "line.txt").write_text(wide, encoding="utf-8")
    assert run(tmp_path, "--max-cer", 0) == 1
    assert run(tmp_path, "--max-cer", 0, "--loose") == 0


def test_the_gallery_stands_alone_holds_the_images_and_is_escaped(run: Tool, scans: Path, tmp_path: Path) -> None:
    (scans / "word.txt").write_text(case("word_56x56")["text"] + "\nmore", encoding="utf-8")
    assert run(scans, "--gallery", tmp_path / "g.html") == 1
    page = (tmp_path / "g.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;" in page
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert page.count("src=") == len(images)
    assert base64.b64decode(images[0]) == (ROOT / LINE).read_bytes()
    titles = re.findall(r"<h2>(\S+): CER", page)
    assert [Path(title).name for title in titles] == ["line.png", "broken.png", "word.png"]
    assert f"<pre>{case('word_56x56')['text']}<del>↵\nmore</del></pre>" in page
    assert "<h3>Not read</h3>" in page and "is truncated or damaged (" in page
    assert "http://" not in page and "https://" not in page and "<link" not in page


def test_lines_at_true_boxes_are_scored_one_by_one(run: Tool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("line", "word", "broken"):
        shutil.copy(LINE if name == "line" else WORD, tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes((ROOT / WORD).read_bytes()[:100])
    (tmp_path / "word.txt").write_text("no boxes", encoding="utf-8")
    text = case("line_392x28")["text"]
    truths = {"line.png": [[0, 0, 392, 28, text], [0, 0, 392, 28, text + "!"]], "broken.png": [[0, 0, 56, 56, "ab"]]}
    (tmp_path / "truths.json").write_text(json.dumps(truths), encoding="utf-8")
    assert run(tmp_path, "--true-boxes", "--output", tmp_path / "out" / "a.json") == 1
    printed = capsys.readouterr()
    assert f"skipped: the ground truth of {tmp_path / 'word.png'} has no boxes\n" in printed.err
    assert f"error: {tmp_path / 'broken.png'}: " in printed.err
    broken, line = Results.load(tmp_path / "out" / "a.json").sections["pages"].rows
    assert (broken["characters"], broken["character_errors"], broken["lines"]) == (2, 2, 1)
    assert (line["lines"], line["exact_lines"], line["character_errors"], line["reading_order"]) == (2, 1, 1, None)


def test_peers_are_scored_beside_and_those_that_are_absent_are_named(
    run: Tool, scans: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", "")
    (scans / "line.txt").write_text(case("line_392x28")["text"], encoding="utf-8")
    assert run(scans, "--output", tmp_path / "a.json", "--loose", "--peers", "tesseract", "rapidocr") == 1
    printed = capsys.readouterr()
    assert "tesseract is skipped: no tesseract on PATH: run `apt-get install" in printed.err
    assert f"error: rapidocr: {scans / 'broken.png'} could not be read: " in printed.err
    assert "\nrapidocr:\nall       3 pages: CER" in printed.out
    results = Results.load(tmp_path / "a.json")
    assert results.row("peers", engine="rapidocr", language="all")["pages"] == 3
    rows = {Path(str(row["page"])).stem: row for row in results.sections["peer_pages"].rows}
    assert (rows["broken"]["cer_percent"], rows["word"]["cer_percent"]) == (100, 0)


def test_words_and_order_are_reported_and_case_can_be_ignored(
    run: Tool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(LINE, tmp_path / "line.png")
    (tmp_path / "line.txt").write_text(case("line_392x28")["text"].swapcase(), encoding="utf-8")
    assert run(tmp_path, "--max-cer", 0) == 1
    capsys.readouterr()
    assert run(tmp_path, "--max-cer", 0, "--ignore-case", "--output", tmp_path / "new" / "a.json") == 0
    assert (
        "words without order: recall 100.0 %, precision 100.0 %, F1 100.0 %, reading order 1.0000\n"
        in capsys.readouterr().out
    )
    row = Results.load(tmp_path / "new" / "a.json").row("totals", language="all")
    assert (row["word_f1_percent"], row["reading_order"]) == (100, 1)


def test_an_image_that_browsers_do_not_show_becomes_a_png(tmp_path: Path) -> None:
    from PIL import Image

    from mindnlp_ocr.bench.accuracy import Page, Score

    with Image.open(WORD) as image:
        image.save(tmp_path / "word.tif")
    picture = Entry(Page(str(tmp_path / "word.tif"), ""), "", None, Score(), False).picture
    assert picture is not None
    assert picture.startswith("data:image/png;base64,iVBOR")
    assert Entry(Page(str(tmp_path / "none.png"), ""), "", None, Score(), False).picture is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/such"], "error: no/such does not exist: pass a folder of images"),
        (["tests/cache"], "error: tests/cache has no page with its text: put page.txt next to page.png"),
        ([WORD, "--max-cer", "-1"], "argument --max-cer: '-1' is not a percentage: use 0 or more"),
        ([WORD, "--max-cer", "nan"], "argument --max-cer: 'nan' is not a percentage"),
        ([WORD, "--worst", "0"], "argument --worst: '0' is not a positive whole number: use 1 or more"),
        ([WORD, "--true-boxes"], "error: --true-boxes: no page has a ground truth with boxes: use hOCR or JSON with boxes"),
        ([WORD, "--true-boxes", "--peers", "rapidocr"], "error: --true-boxes and --peers are both given"),
        ([WORD, "--dpi", "1"], "error: --dpi is 1: use 10 to 2400"),
        ([WORD, "--batch-size", "0"], "error: --batch-size is 0: use 1 or more"),
        ([WORD, "--gallery", "tests"], "error: tests cannot be written (Is a directory): name another file"),
    ],
)
def test_wrong_usage_exits_2_before_a_page_is_read(
    run: Tool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    monkeypatch.setattr("mindnlp_ocr.opening.load_model", lambda arguments: pytest.fail("the model was loaded"))
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err
