"""Pages shared among the workers of msrun: the text of one process, and what becomes of it when a worker dies."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from mindnlp_ocr.cli import main
from tests.cluster.runs import SECONDS, log, run, start
from tests.conftest import ROOT

PAGES = ["examples/letter.png", "tests/pages/word_56x56.png", "tests/pages/missing.png", "tests/pages/line_392x28.png"]


def of_one_process(*arguments: str) -> int:
    return main(["--prompt", "OCR", *arguments])


def test_two_workers_print_the_text_of_one_and_nothing_else_goes_to_standard_output(tmp_path: Path) -> None:
    pages = [page for page in PAGES if "missing" not in page]
    assert run("tools/infer.py", "--prompt", "OCR", *pages, logs=tmp_path) == 0
    assert of_one_process(*pages, "--output", str(tmp_path / "one.txt")) == 0
    assert log(tmp_path, "worker_0") == (tmp_path / "one.txt").read_text(encoding="utf-8")
    assert (log(tmp_path, "worker_1"), log(tmp_path, "scheduler")) == ("", "")


def test_two_workers_report_as_json_what_one_does_and_a_bad_page_is_an_error_of_its_own(tmp_path: Path) -> None:
    reports: list[dict[str, Any]] = []
    for name in ("one", "two"):
        arguments = [*PAGES, "--format", "json", "--output", str(tmp_path / f"{name}.json")]
        if name == "one":
            assert of_one_process(*arguments) == 1
        else:
            assert run("tools/infer.py", "--prompt", "OCR", *arguments, logs=tmp_path) == 1
        reports.append(json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8")))
        for result in reports[-1]["results"]:
            result["timings_ms"] = sorted(result["timings_ms"])
    one, two = reports
    assert one["results"] == two["results"]
    assert [bool(result["error"]) for result in two["results"]] == [False, False, True, False]
    assert two["cache"]["total_requests"] == one["cache"]["total_requests"] == 3
    assert two["model"].keys() == one["model"].keys()
    assert two["ranks"] == [{"rank": 0, "pages": 2, "error": None}, {"rank": 1, "pages": 2, "error": None}]


def test_a_worker_that_is_killed_is_reported_with_its_pages_and_the_other_reads_all_of_its_own(tmp_path: Path) -> None:
    names = [f"page_{number:03}.png" for number in range(80)]
    for name in names:
        os.symlink(ROOT / "examples" / "letter.png", tmp_path / name)
    output = tmp_path / "pages.txt"
    paths = [str(tmp_path / name) for name in names]
    process = start("tools/infer.py", *paths, "--output", str(output), logs=tmp_path / "logs")
    try:
        wait_for(lambda: "page_001.png" in read(tmp_path / "pages.txt.part"))
        os.kill(reader(process.pid, "1"), signal.SIGKILL)
        console, _ = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert process.returncode == 1
    texts = dict(
        entry.split(" <==\n", 1) for entry in output.read_text(encoding="utf-8").removeprefix("==> ").split("\n==> ")
    )
    assert list(texts) == paths
    letter = (ROOT / "examples" / "letter.txt").read_text(encoding="utf-8").strip()
    assert [texts[path].strip() == letter for path in paths[::2]] == [True] * 40
    lost = [path for path in paths[1::2] if not texts[path].strip()]
    assert 0 < len(lost) < 40
    assert [texts[path].strip() for path in paths[1::2] if path not in lost] == [letter] * (40 - len(lost))
    said = f"error: rank 1 died: {len(lost)} of its 40 pages were not read: {', '.join(lost)}\n"
    assert said in console
    assert said in log(tmp_path / "logs", "scheduler")


def test_a_model_that_is_not_there_is_said_once_and_leaves_no_file(tmp_path: Path) -> None:
    arguments = [*PAGES, "--model", "nowhere", "--output", str(tmp_path / "pages.txt")]
    assert run("tools/infer.py", *arguments, logs=tmp_path / "logs") == 1  # msrun's own, of the scheduler's 2
    said = "error: model nowhere does not exist (nothing is downloaded): give a Qwen2-VL folder"
    assert log(tmp_path / "logs", "scheduler").startswith(said)
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


def wait_for(condition: Any) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def reader(msrun: int, rank: str) -> int:
    """The process that reads the pages of a rank: the worker's child, but for Python's own tracker of resources."""
    workers = [child for child in psutil.Process(msrun).children() if child.environ().get("MS_NODE_ID") == rank]
    workers = [child for child in workers if child.environ().get("MS_ROLE") == "MS_WORKER" and child.name() != "tail"]
    (pid,) = [child.pid for child in workers[0].children() if "spawn_main" in " ".join(child.cmdline())]
    return int(pid)


@pytest.fixture(autouse=True)
def _msrun_is_there() -> None:
    assert shutil.which("tail"), "msrun shows its workers' logs with tail"
