"""A farm whose actor is a model in two parts: the files of a whole one, also where one of its ranks is killed."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mindnlp_ocr.cli import main
from tests.cluster.runs import clean_environment
from tests.conftest import ROOT

# All of one bucket, so that each rank compiles three graphs, and again when it has been started anew.
PAGES = [f"tests/pages/{name}.png" for name in ("word_56x56", "small_48x30", "line_392x28", "zh_line_336x34", "line_400x60")]
SECONDS = 200


def ranks(driver: psutil.Process) -> list[psutil.Process]:
    """The ranks that an actor has started."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "mindnlp_ocr.farm.in_parts" in (process.info["cmdline"] or []):
            environment = process.environ()
            if environment.get("MS_ROLE") == "MS_WORKER" and driver in process.parents():
                found.append(process)
    return found


def test_a_model_in_parts_writes_what_a_whole_one_does_though_a_rank_is_killed(tmp_path: Path) -> None:
    assert main([*PAGES, "--output-dir", str(tmp_path / "one"), "--format", "text"]) == 0
    command = [sys.executable, "-m", "mindnlp_ocr.cli", "batch", *PAGES, "--output", str(tmp_path / "farm")]
    command += ["--format", "text", "--pages-per-task", "1", "--tensor-parallel", "2"]
    environment = clean_environment() | {"RAY_ADDRESS": ""}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "farm").glob("*.txt")):
        assert process.poll() is None
        time.sleep(0.05)
    (rank,) = ranks(psutil.Process(process.pid))
    rank.kill()
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said
    files = {path.name: path.read_bytes() for path in (tmp_path / "farm").glob("*.txt")}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert len(files) == len(PAGES)


def test_what_a_model_in_parts_cannot_do_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["batch", PAGES[0], "--output", str(tmp_path / "out"), "--tensor-parallel"]
    assert main([*argv, "0"]) == 2
    assert capsys.readouterr().err == "error: --tensor-parallel is 0: use 1 or more [not_positive]\n"
