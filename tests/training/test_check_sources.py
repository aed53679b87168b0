"""Tests of the check that evaluation pages are not used for training. They need no torch."""

import json
from pathlib import Path

import pytest

from training.check_sources import main

HEAD = ["Corner Bakery Limited", "48 Market Street", "Tel: 555-207-3318"]
FIRST = ["Receipt 004821", "Date 2025-06-07", "Apple cake 4.50", "Coffee 2.80", "Total 7.30"]
SECOND = ["Receipt 005512", "Date 2025-07-01", "Rye bread 3.10", "Tea 1.90", "Total 5.00"]


def folder(path: Path, pages: dict[str, list[str]]) -> Path:
    path.mkdir()
    lines = {name: [[0, 0, 9, 9, line] for line in text] for name, text in pages.items()}
    (path / "receipts.json").write_text(json.dumps(lines), encoding="utf8")
    return path


def test_the_same_page_is_found_whatever_its_case(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    training = folder(tmp_path / "train", {"a.jpg": [line.upper() for line in HEAD + FIRST], "b.jpg": SECOND})
    evaluation = folder(tmp_path / "dev", {"c.jpg": HEAD + FIRST[:4]})
    assert main(["--training", str(training), "--evaluation", str(evaluation)]) == 1
    assert "train/a.jpg equals dev/c.jpg: they share 7 lines that are not part of a form" in caplog.messages


def test_a_letterhead_is_no_page(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    training = folder(tmp_path / "train", {"a.jpg": HEAD + FIRST})
    evaluation = folder(tmp_path / "dev", {"b.jpg": HEAD + SECOND})
    assert main(["--training", str(training), "--evaluation", str(evaluation)]) == 0
    assert "3 of 8 evaluation lines occur literally in the training pages" in caplog.messages


def test_a_folder_without_text_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit):
        main(["--training", str(tmp_path / "empty"), "--evaluation", str(tmp_path / "empty")])
    assert "has no pages with text" in capsys.readouterr().err
