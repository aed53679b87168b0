"""Tests of runs over many documents: output files, resuming and interruption."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mindnlp_ocr import options
from mindnlp_ocr.cli import main
from mindnlp_ocr.documents.files import OutputFolder
from mindnlp_ocr.documents.stream import DocumentStream, PageRead
from mindnlp_ocr.documents.writers import FORMATS
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
from tests.conftest import ROOT, case

WORD, LINE = "tests/pages/word_56x56.png", "tests/pages/line_392x28.png"


@pytest.fixture
def run(model: Qwen2VLModel, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command line with the shared model."""
    monkeypatch.setattr("mindnlp_ocr.opening.load_model", lambda arguments: model)
    return lambda *arguments: main([*map(str, arguments), "--threads", "1"])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_every_document_gets_a_file_and_finished_ones_are_skipped(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    bad = tmp_path / "bad.pdf"
    bad.write_bytes(b"%PDF-1.7")
    assert run(WORD, bad, LINE, "--output-dir", out) == 1
    assert names(out) == ["line_392x28.txt", "word_56x56.txt"]
    assert (out / "word_56x56.txt").read_text(encoding="utf-8") == case("word_56x56")["text"] + "\n"
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {bad}: {bad} is damaged or not a PDF (")
    (out / "word_56x56.txt").write_text("mine", encoding="utf-8")
    (out / "line_392x28.txt").unlink()
    (out / "line_392x28.txt.part").write_text("half", encoding="utf-8")
    assert run(WORD, LINE, "--output-dir", out, "--resume") == 0
    assert (out / "word_56x56.txt").read_text(encoding="utf-8") == "mine"
    assert (out / "line_392x28.txt").read_text(encoding="utf-8") == case("line_392x28")["text"] + "\n"
    assert names(out) == ["line_392x28.txt", "word_56x56.txt"]


def test_a_run_that_is_interrupted_leaves_what_was_finished_and_nothing_half_written(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = DocumentStream.read

    def interrupted(stream: DocumentStream, names: Any) -> Any:
        for event in read(stream, names):
            yield event
            if isinstance(event, PageRead) and event.name == LINE:
                raise KeyboardInterrupt

    monkeypatch.setattr(DocumentStream, "read", interrupted)
    assert run(WORD, LINE, "--output-dir", tmp_path / "out") == 130
    assert names(tmp_path / "out") == ["word_56x56.txt"]


def test_a_full_disk_ends_the_run_with_one_line_and_keeps_what_was_complete(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = FORMATS["text"].page

    def full(writer: Any, *arguments: Any) -> None:
        if writer.source == LINE:
            raise OSError(errno.ENOSPC, "No space left on device")
        page(writer, *arguments)

    monkeypatch.setattr(FORMATS["text"], "page", full)
    assert run(WORD, LINE, "--output-dir", tmp_path / "out") == 2
    assert names(tmp_path / "out") == ["word_56x56.txt"]
    printed = capsys.readouterr().err
    assert printed.endswith(" [output_failed]\n")
    assert printed.count("\n") == 1


def test_documents_of_one_name_are_kept_apart_or_refused(tmp_path: Path) -> None:
    folder = OutputFolder(str(tmp_path), ".txt", ["a/x.png", "a/x.pdf", "y.png"])
    assert [folder.path(name).name for name in ("a/x.png", "a/x.pdf", "y.png")] == ["x.png.txt", "x.pdf.txt", "y.txt"]
    with pytest.raises(SetupError, match=r"a/x.png and b/x.png would both be written to .*x.png.txt"):
        OutputFolder(str(tmp_path), ".txt", ["a/x.png", "b/x.png"])


def test_the_command_line_names_every_format() -> None:
    assert tuple(FORMATS) == options.FORMATS


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format_is_written_for_a_page_with_lines(run: Any, tmp_path: Path, name: str) -> None:
    with Image.open(ROOT / "examples" / "receipt.png") as image:
        head = image.convert("RGB").crop((0, 130, image.width, 172))  # the line of the date
        head.resize((head.width * 2, head.height * 2)).save(tmp_path / "page.png", dpi=(150, 150))
    out = tmp_path / f"page{FORMATS[name].suffix}"
    assert run(tmp_path / "page.png", "--layout", "lines", "--format", name, "--output", out) == 0
    content = out.read_bytes()
    assert content.startswith(b"%PDF-") if name == "pdf" else "2025" in content.decode("utf-8")
    if name == "json":
        (page,) = json.loads(content)["results"][0]["pages"]
        assert page["layout"] == "lines"
        assert page["dpi"] == pytest.approx(150, abs=0.1)


def test_what_was_found_is_drawn(run: Any, tmp_path: Path) -> None:
    assert run(WORD, "--layout", "lines", "--visualize", tmp_path / "drawn", "--output", tmp_path / "x.txt") == 0
    (path,) = (tmp_path / "drawn").iterdir()
    assert path.name == "word_56x56.png.png"
    with Image.open(path) as image:
        assert min(image.size) >= 56


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--output", "x", "--output-dir", "y"], "options_conflict"),
        (["--resume"], "resume_without_folder"),
        (["--pages", "0"], "pages_invalid"),
        (["--dpi", "5"], "dpi_out_of_range"),
        (["--min-confidence", "2"], "min_confidence_out_of_range"),
        (["--format", "hocr", "--image", WORD], "format_one_document"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    run: Any, arguments: list[str], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments, LINE) == 2
    assert capsys.readouterr().err.endswith(f" [{code}]\n")


def test_pages_that_are_not_there_are_an_error_of_the_document(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(WORD, "--pages", "2-3", "--output", tmp_path / "x") == 1
    assert (
        capsys.readouterr().err == f"error: {WORD}: none of its 1 pages is selected: change --pages [pages_out_of_range]\n"
    )
