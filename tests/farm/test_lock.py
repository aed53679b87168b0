"""One run at a time on an output, and none that has died blocks another."""

import json
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.farm import lock
from mindnlp_ocr.farm.lock import NAME, locked
from mindnlp_ocr.farm.store import Store
from tests.conftest import ROOT

HOLD = "import sys, time; from mindnlp_ocr.farm.lock import locked; from mindnlp_ocr.farm.store import Store\n"
HOLD += "with locked(Store(sys.argv[1]), 'first'): print('held', flush=True); time.sleep(60)"


class ElsewhereStore(Store):
    """As in an object store, without locks."""

    def local(self, name: str) -> Path | None:
        return None


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lock, "STALE_SECONDS", 0.5)
    return ElsewhereStore(str(tmp_path / "out"))


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_second_run_is_refused_on_a_disk_and_one_that_was_killed_blocks_nobody(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"))
    first = subprocess.Popen([sys.executable, "-c", HOLD, store.uri], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    says = f"is being written by another run .process {first.pid} on {platform.node()}.: wait until it ends, or use"
    with pytest.raises(SetupError, match=says), locked(store, "second"):
        pass
    first.kill()
    first.wait()
    for _ in range(2):
        with locked(store, "second"):
            pass


def test_a_file_system_without_locks_is_treated_as_an_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(lock.NO_LOCKS[0], "no locks")

    monkeypatch.setattr("fcntl.flock", flock)
    store = Store(str(tmp_path / "out"))
    with locked(store, "first"):
        assert json.loads(store.read(NAME))["run"] == "first"
    assert not store.exists(NAME)


def test_a_second_run_is_refused_where_the_record_of_the_first_is_kept_new(elsewhere: Store) -> None:
    with locked(elsewhere, "first"):
        with pytest.raises(SetupError, match="is being written by another run"), locked(elsewhere, "second"):
            pass
        assert json.loads(elsewhere.read(NAME))["run"] == "first"
    assert not elsewhere.exists(NAME)


@pytest.mark.parametrize(("host", "waits"), [(platform.node(), False), ("another", True)])
def test_the_record_of_a_run_that_has_died_blocks_nobody(elsewhere: Store, host: str, waits: bool) -> None:
    elsewhere.write(NAME, json.dumps({"host": host, "pid": dead_process(), "run": "first", "beat": 7}).encode())
    before = time.monotonic()
    with locked(elsewhere, "second"):
        assert (time.monotonic() - before >= lock.STALE_SECONDS) == waits
        assert json.loads(elsewhere.read(NAME))["run"] == "second"


def test_a_record_that_is_damaged_or_goes_away_blocks_nobody(elsewhere: Store) -> None:
    elsewhere.write(NAME, b"no JSON")
    with locked(elsewhere, "first"):
        pass
    elsewhere.write(NAME, b'{"host": "another", "pid": 1, "run": "zero", "beat": 1}')
    threading.Timer(0.1, elsewhere.remove, [NAME]).start()
    with locked(elsewhere, "second"):
        pass


def test_a_run_that_had_stood_still_stops_where_another_has_taken_over(elsewhere: Store) -> None:
    with locked(elsewhere, "first") as held:
        held.check(elsewhere.uri)
        elsewhere.write(NAME, json.dumps({"host": "another", "pid": 5, "run": "second"}).encode())
        end = time.monotonic() + 20
        while held.taken is None:
            assert time.monotonic() < end
        with pytest.raises(
            SetupError, match="was taken over by process 5 on another, because this run sent no heartbeat for too long"
        ):
            held.check(elsewhere.uri)
    assert json.loads(elsewhere.read(NAME))["run"] == "second"
