"""Pages shared among the workers of msrun: the text of one process, and what becomes of it when a worker dies."""

import json
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from mindnlp_ocr.cli import main, parser
from mindnlp_ocr.cluster.launch import Launch
from mindnlp_ocr.cluster.pages import gather, read_share
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
from tests.cluster.runs import SECONDS, free_port, log, run, start
from tests.conftest import ROOT

PAGES = ["examples/letter.png", "tests/pages/word_56x56.png", "tests/pages/missing.png", "tests/pages/line_392x28.png"]


def of_one_process(*arguments: str) -> int:
    return main(["--prompt", "OCR", *arguments])


def test_two_workers_write_the_text_file_of_one(
    tmp_path: Path, model: Qwen2VLModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mindnlp_ocr.cli.load_model", lambda arguments: model)  # for all three: what differs is the way
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    assert of_one_process(*PAGES, "--output", str(one)) == 1
    assert in_this_process(["--prompt", "OCR", *PAGES, "--output", str(two)]) == (1, [0, 0])
    assert two.read_text(encoding="utf-8") == one.read_text(encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.txt", "two.txt"]


def test_two_workers_report_as_json_what_one_does_and_rank_0_prints_it_alone(tmp_path: Path) -> None:
    assert of_one_process(*PAGES, "--format", "json", "--output", str(tmp_path / "one.json")) == 1
    assert run("tools/infer.py", "--prompt", "OCR", *PAGES, "--format", "json", logs=tmp_path) == 1
    one, two = (
        json.loads(text) for text in (read(tmp_path / "one.json"), log(tmp_path, "worker_0").partition("image file\n")[2])
    )
    # Workers read whole pages, and report them as they always did; the command line reports documents.
    ours = [(result["image"], result["text"]) for result in one["results"]]
    assert ours == [(result["image"], result["text"]) for result in two["results"]]
    assert [bool(result["error"]) for result in two["results"]] == [False, False, True, False]
    assert two["cache"]["total_requests"] == one["cache"]["total_requests"] == 3
    assert two["model"].keys() == one["model"].keys()
    assert log(tmp_path, "worker_1") == ""
    assert two["ranks"] == [{"rank": 0, "pages": 2, "error": None}, {"rank": 1, "pages": 2, "error": None}]


def test_a_worker_that_is_killed_is_reported_with_its_pages_and_the_other_reads_all_of_its_own(tmp_path: Path) -> None:
    names = [f"page_{number:03}.png" for number in range(24)]
    for name in names:
        (tmp_path / name).symlink_to(ROOT / "examples" / "letter.png")
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
    assert [texts[path].strip() == letter for path in paths[::2]] == [True] * 12
    lost = [path for path in paths[1::2] if not texts[path].strip()]
    assert 0 < len(lost) < 12
    assert [texts[path].strip() for path in paths[1::2] if path not in lost] == [letter] * (12 - len(lost))
    said = f"error: rank 1 died: {len(lost)} of its 12 pages were not read: {', '.join(lost)}\n"
    assert said in console
    assert said in log(tmp_path / "logs", "scheduler")


def test_a_model_that_is_not_there_is_said_by_all_and_leaves_no_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SetupError, match="model nowhere does not exist"):
        in_this_process([*PAGES, "--model", "nowhere", "--output", str(tmp_path / "pages.txt")])
    assert capfd.readouterr().err.count("error: model nowhere does not exist") == 2
    assert list(tmp_path.iterdir()) == []


def in_this_process(argv: list[str]) -> tuple[int, list[int]]:
    """What the scheduler and two workers return, without msrun: rank 1 reads before rank 0, which waits for the end."""
    arguments, port = parser().parse_args(argv), free_port()
    scheduler, *workers = (Launch(rank is None, rank, 2, "127.0.0.1", port, 60.0) for rank in (None, 1, 0))
    with ThreadPoolExecutor(1) as pool:
        gathered = pool.submit(gather, arguments, arguments.images, scheduler)
        ended = [read_share(arguments, arguments.images, worker) for worker in workers]
        return gathered.result(), ended


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
