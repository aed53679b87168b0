"""One run at a time on an output: on a disk by a lock of the file system, elsewhere by a record that a run keeps new."""

import contextlib
import errno
import fcntl
import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.farm.settings import FOLDER
from mindnlp_ocr.farm.store import Store

NAME = f"{FOLDER}/lock"
BEAT_SECONDS = 10.0
STALE_SECONDS = 3 * BEAT_SECONDS  # without a beat: its run has died
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # of file systems on a network, by how they are mounted


class Lock:
    """What a run holds.

    Attributes:
        taken: by which other run it was taken over, since this one was not heard of for too long.
    """

    taken: str | None = None

    def check(self, output: str) -> None:
        """Raises SetupError where another run has taken the output over."""
        if self.taken is not None:
            raise SetupError(f"{output} was taken over by {self.taken}, since this run had stood still: let that one go on")


@contextlib.contextmanager
def locked(store: Store, run: str) -> Iterator[Lock]:
    """Hold an output. What dies while it holds one blocks nobody: the kernel frees its lock, and its record is no longer
    kept new.

    Raises:
        SetupError: another run holds it.
    """
    path = store.local(NAME)
    with _by_the_file_system(path, store.uri) if path is not None else contextlib.nullcontext(False) as held:
        if held:
            yield Lock()
            return
        with _by_record(store, run) as lock:
            yield lock


def _owner() -> dict[str, Any]:
    return {"host": platform.node(), "pid": os.getpid()}


def _refusal(output: str, owner: dict[str, Any]) -> SetupError:
    return SetupError(
        f"{output} is being written by another run ({_named(owner)}): wait until it has ended, or give another --output"
    )


def _named(owner: dict[str, Any]) -> str:
    return f"process {owner.get('pid')} on {owner.get('host')}"


@contextlib.contextmanager
def _by_the_file_system(path: Path, output: str) -> Iterator[bool]:
    """Whether the file system has locks, and this one is held."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise _refusal(output, _decoded(file.read())) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            yield False
            return
        file.truncate(0)
        file.write(json.dumps(_owner()))
        file.flush()
        yield True
        file.truncate(0)


@contextlib.contextmanager
def _by_record(store: Store, run: str) -> Iterator[Lock]:
    """Two runs that begin within the same moment may both get through: an object store has no lock."""
    _wait_for_a_dead_run(store)
    lock, over, number = Lock(), threading.Event(), 0

    def beat() -> None:
        nonlocal number
        number += 1
        store.write(NAME, json.dumps({**_owner(), "run": run, "beat": number}).encode())

    def keep_new() -> None:
        while not over.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):  # the store may be back at the next beat
                if (record := _record(store)) and record.get("run") != run:
                    lock.taken = _named(record)
                    return
                beat()

    beat()
    keeper = threading.Thread(target=keep_new, daemon=True)
    keeper.start()
    try:
        yield lock
    finally:
        over.set()
        keeper.join()
        if lock.taken is None:
            store.remove(NAME)


def _wait_for_a_dead_run(store: Store) -> None:
    first = _record(store)
    if not first or (first.get("host") == platform.node() and not psutil.pid_exists(first.get("pid", 0))):
        return
    end = time.monotonic() + STALE_SECONDS
    while time.monotonic() < end:
        time.sleep(min(1.0, BEAT_SECONDS))
        if (now := _record(store)) != first:
            if not now:
                return
            raise _refusal(store.uri, now)


def _record(store: Store) -> dict[str, Any]:
    with contextlib.suppress(FileNotFoundError):
        return _decoded(store.read(NAME).decode(errors="replace"))
    return {}


def _decoded(text: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        record = json.loads(text)
        if isinstance(record, dict):
            return record
    return {}
