"""Farms on Ray whose processes are killed: the output of an undisturbed run, and nothing that was kept is read again."""

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray

from mindnlp_ocr.cli import main
from mindnlp_ocr.farm import command
from mindnlp_ocr.farm.settings import FOLDER
from tests.conftest import ROOT
from tests.farm.fakes import READER, tiff
from tests.farm.one_process import contents, rows, texts

SECONDS = 120
KILLS = 8
DRIVERS = 2  # of these, the driver's; the others are actors' and planners'


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray cluster on this machine, which the tests share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        patch.setenv("RAY_ADDRESS", "")
        patch.delenv("LD_LIBRARY_PATH", raising=False)
        options = {"include_dashboard": False, "object_store_memory": 100 << 20, "log_to_driver": False}
        ray.init(num_cpus=2, logging_level="ERROR", **options)
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()


def driver(*argv: object) -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.farm.driver", *map(str, argv)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    _, said = process.communicate(timeout=SECONDS)
    return process.returncode, said


def workers(*names: str) -> list[psutil.Process]:
    """Processes of the tests' own cluster that do a farm's work; those of others on this machine are left alone."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any(name in " ".join(process.cmdline()) for name in names):
                found.append(process)
    return found


def kill(process: psutil.Process) -> bool:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True


def one_process(*argv: object) -> None:
    """The same farm without Ray, as often as it is ended by what it reads."""
    script = "import sys; from tests.farm.one_process import farm; farm(*sys.argv[1:])"
    command = [sys.executable, "-c", script, *map(str, argv)]
    while subprocess.run(command, cwd=ROOT, stderr=subprocess.DEVNULL, check=False).returncode < 0:
        pass


class Kills:
    """Kills the processes of a farm at random, until a number of them have been."""

    def __init__(self, argv: list[object], output: Path, log: Path) -> None:
        self._argv, self._output, self._log = argv, output, log
        self._chance = random.Random(20)
        self._left = [True] * DRIVERS + [False] * (KILLS - DRIVERS)  # whether it is the driver's
        self._chance.shuffle(self._left)
        self.kept: list[tuple[set[str], int]] = []  # the parts that were kept at each kill, and the length of the log then

    def run(self) -> tuple[int, str]:
        """The exit status of the last driver, and what it said."""
        process = driver(*self._argv)
        while self._left and process.poll() is None:
            time.sleep(self._chance.uniform(0.1, 0.5))
            state = self._state()
            if not state[1]:  # nothing has been read yet
                continue
            if self._left[-1]:
                process.kill()
                ended(process)
                process = driver(*self._argv)
            else:
                victims = workers("ray::MapWorker", "ray::MapBatches(plan")
                if not victims or not kill(self._chance.choice(victims)):
                    continue
            self.kept.append(state)
            self._left.pop()
        return ended(process)

    def _state(self) -> tuple[set[str], int]:
        parts = {path.stem for path in (self._output / FOLDER / "parts").rglob("*.parquet")}
        return parts, self._log.read_text(encoding="utf-8").count("\n") if self._log.exists() else 0


def test_kills_change_no_byte_and_nothing_that_was_kept_is_read_again(cluster: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(8):
        tiff(tmp_path / "in" / f"{number:02}.tif", 1 + 7 * number % 23)
    log, output = tmp_path / "log", tmp_path / "out"
    argv = [tmp_path / "in", "--pages-per-task", 3, "--format", "jsonl", "--prompt"]
    one_process(*argv, "crash 03.tif:7", "--output", tmp_path / "whole")
    argv += ["sleep 0.1 crash 03.tif:7", "--password", log, "--output", output, "--ray", cluster, "--actors", 2]
    kills = Kills(argv, output, log)
    status, said = kills.run()
    assert status == 1, said
    assert len(kills.kept) == KILLS
    assert "1 x SIGSEGV ended the process that worked only on this page, N times" in said
    (output / FOLDER / "settings.json").unlink()  # which a driver alone writes
    assert contents(output) == contents(tmp_path / "whole")
    lines = log.read_text(encoding="utf-8").splitlines()
    plan = json.loads((output / FOLDER / "plan" / "000000.json").read_text(encoding="utf-8"))
    for parts, length in kills.kept:
        ranges = [item for part in parts for item in plan["tasks"][int(part)]]
        names = [Path(document["name"]).name for document in plan["documents"]]
        kept = {f"{names[document]}:{page}" for document, start, stop in ranges for page in range(start, stop)}
        assert kept.isdisjoint(lines[length:])


def test_where_all_of_ray_dies_the_next_run_goes_on_and_a_page_that_ends_every_actor_is_reported(tmp_path: Path) -> None:
    tiff(tmp_path / "a.tif", 20)
    argv = [tmp_path / "a.tif", "--output", tmp_path / "out", "--pages-per-task", 4, "--actors", 1]
    argv += ["--prompt", "sleep 0.1 crash-all a.tif:17"]
    process = driver(*argv)
    parts = tmp_path / "out" / "pages" / "000000"
    while not parts.exists() or len(list(parts.iterdir())) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    (raylet,) = [child for child in psutil.Process(process.pid).children(recursive=True) if child.name() == "raylet"]
    raylet.kill()
    status, said = ended(process)
    assert status != 0
    kept = {path: path.stat().st_mtime_ns for path in parts.iterdir()}
    assert len(kept) < 4
    status, said = ended(driver(*argv))
    assert status == 1, said
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    remedy = "leave the page out, or give its reader more memory"
    expected = [f"{tmp_path / 'a.tif'} {index}" for index in range(20)]
    expected[17] = f"3 actors ended while they worked only on this page: {remedy}"
    assert texts(rows(tmp_path / "out")) == expected


def test_with_the_model_the_files_are_those_of_one_process(
    cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    pages = ["examples/two_columns.pdf", "examples/letter.png", "tests/pages/word_56x56.png", "missing.png"]
    assert main([*pages, "--output-dir", str(tmp_path / "one"), "--format", "hocr"]) == 1
    argv = ["batch", *pages, "--output", str(tmp_path / "farm"), "--pages-per-task", "1", "--cost-per-hour", "2"]
    assert main([*argv, "--format", "hocr"]) == 1
    said = capsys.readouterr().err
    assert "1 x ... is missing: pass a PDF or an image file" in said
    assert "cost of a million pages: " in said
    one = contents(tmp_path / "one")
    assert len(one) == 3
    assert {name: found for name, found in contents(tmp_path / "farm").items() if "/" not in name} == one
    (report,) = (tmp_path / "farm" / FOLDER / "runs").iterdir()
    assert json.loads(report.read_text(encoding="utf-8"))["pages"] == len(one)
    assert main([*argv, "--dpi", "100"]) == 2
    assert "was started with dpi 200.0, but dpi is now 100.0: use another --output" in capsys.readouterr().err


def test_what_the_cluster_has_no_room_for_is_refused(
    cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiff(tmp_path / "a.tif", 1)
    argv = [str(tmp_path / "a.tif"), "--output", str(tmp_path / "out")]
    assert command.main([*argv, "--cpus-per-actor", "3"], READER) == 2
    assert "an actor needs 3 CPUs and 0 NPUs, but the cluster has 2 and 0: lower --cpus-per-actor" in capsys.readouterr().err
    assert command.main([*argv[:2], str(tmp_path / "other"), "--prompt", "no model"], READER) == 2
    assert capsys.readouterr().err == "error: there is no model: give one\n"
