"""Tests of documents shared among independent processes, with --shard or by the rank under msrun."""

from pathlib import Path

import pytest

from mindnlp_ocr.cli import main
from mindnlp_ocr.cluster.shard import Shard
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
from mindnlp_ocr.parallel.launch import Launch
from tests.cluster.runs import log, run
from tests.conftest import ROOT

PAGES = ["examples/letter.png", "tests/pages/word_56x56.png", "missing.png", "tests/pages/line_392x28.png"]
WORKER = {
    "MS_ROLE": "MS_WORKER",
    "MS_NODE_ID": "1",
    "MS_SCHED_HOST": "127.0.0.1",
    "MS_SCHED_PORT": "1",
    "MS_WORKER_NUM": "2",
}


def test_every_document_is_in_one_part() -> None:
    names = [str(number) for number in range(9)]
    for count in range(1, 12):
        parts = [Shard(index, count).of(names) for index in range(count)]
        assert sorted(name for part in parts for name in part) == names
    assert Shard(1, 4).of(names) == ["1", "5"]


@pytest.mark.parametrize("text", ["4/4", "1", "-1/4", "0/0", "a/b"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(SetupError, match=f"--shard is {text}: use I/N, with I from 0 to N-1"):
        Shard.parse(text)


def test_the_part_is_that_of_the_rank_unless_another_is_given() -> None:
    launch = Launch.from_environment(WORKER)
    assert Shard.choose(None, launch, "out") == Shard(1, 2)
    assert Shard.choose("0/3", launch, "out") == Shard(0, 3)
    assert Shard.choose(None, None, None) == Shard()
    assert Shard.choose("0/1", None, None) == Shard()
    with pytest.raises(
        SetupError,
        match="this is worker 1 of 2, and each worker would overwrite the output of the others: add --output-dir DIR",
    ):
        Shard.choose(None, launch, None)


def test_two_parts_write_the_files_of_one_run_and_one_that_is_missing_is_made_by_the_same_line(
    tmp_path: Path, model: Qwen2VLModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mindnlp_ocr.opening.load_model", lambda arguments: model)
    monkeypatch.chdir(ROOT)
    pages = [*PAGES, "examples/scan.jpg"]
    assert main([*pages, "--output-dir", str(tmp_path / "one")]) == 1
    line = [*pages, "--output-dir", str(tmp_path / "two"), "--resume", "--shard"]
    assert main([*line, "1/2"]) == 0
    assert files(tmp_path / "two").keys() == {"word_56x56.txt", "line_392x28.txt"}
    for name, value in WORKER.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MS_NODE_ID", "0")
    capsys.readouterr()
    assert main(line[:-1]) == 0  # under msrun a worker that fails would end the others
    assert "error: missing.png: missing.png is missing" in capsys.readouterr().err
    note = {"_failed-0.log": "worker 0 could not read everything: see its log\n"}
    assert files(tmp_path / "two") == files(tmp_path / "one") | note
    (tmp_path / "two" / "scan.txt").unlink()
    written = (tmp_path / "two" / "letter.txt").stat().st_mtime_ns
    line.remove("missing.png")
    for rank in ("1", "0"):  # all that could not be read is gone, and so is the note of it
        monkeypatch.setenv("MS_NODE_ID", rank)
        assert main(line[:-1]) == 0
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert (tmp_path / "two" / "letter.txt").stat().st_mtime_ns == written


def test_workers_of_msrun_read_their_parts(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("tools/infer.py", *PAGES, "--output-dir", str(out), "--resume", logs=tmp_path / "logs") == 0
    assert files(out).keys() == {"letter.txt", "word_56x56.txt", "line_392x28.txt", "_failed-0.log"}
    assert "error: missing.png" in log(tmp_path / "logs", "worker_0")
    assert log(tmp_path / "logs", "worker_1") == ""


def test_without_a_folder_for_them_workers_are_told_what_to_do(tmp_path: Path) -> None:
    assert run("tools/infer.py", *PAGES, "--output", str(tmp_path / "all.txt"), logs=tmp_path / "logs") == 1
    said = log(tmp_path / "logs", "worker_0") + log(tmp_path / "logs", "worker_1")
    assert (
        "each worker would overwrite the output of the others: add --output-dir DIR --resume for one file per document"
        in said
    )
    assert not (tmp_path / "all.txt").exists()


def files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
