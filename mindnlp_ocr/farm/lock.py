"""A lock that allows one run at a time on an output: a file lock on a disk, a record with a heartbeat elsewhere."""

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
STALE_SECONDS = 3 * BEAT_SECONDS  # time without a heartbeat after which a run counts as dead
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # errors of network file systems without locks


class Lock:
    """A lock held by a run.

    Attributes:
        taken: the run that took over the output because this one sent no heartbeat for too long, else None.
    """

    taken: str | None = None

    def check(self, output: str) -> None:
        """Raise a SetupError if another run has taken over the output."""
        if self.taken is not None:
            raise SetupError(
                f"{output} was taken over by {self.taken}, because this run sent no heartbeat for too long: "
                "let the other run finish",
                code="output_taken_over",
            )


@contextlib.contextmanager
def locked(store: Store, run: str) -> Iterator[Lock]:
    """Lock an output. A run that dies does not block it: the kernel releases a file lock, and a record becomes stale.

    Raises:
        SetupError: another run holds the lock.
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
        f"{output} is being written by another run ({_named(owner)}): wait until it ends, or use another --output",
        code="output_in_use",
    )


def _named(owner: dict[str, Any]) -> str:
    return f"process {owner.get('pid')} on {owner.get('host')}"


@contextlib.contextmanager
def _by_the_file_system(path: Path, output: str) -> Iterator[bool]:
    """Lock a file. Yields False if the file system supports no locks."""
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
    """Lock by a record. Two runs that start at the same moment may both succeed, as object stores have no locks."""
    _wait_for_a_dead_run(store)
    lock, over, number = Lock(), threading.Event(), 0

    def beat() -> None:
        nonlocal number
        number += 1
        store.write(NAME, json.dumps({**_owner(), "run": run, "beat": number}).encode())

    def keep_new() -> None:
        while not over.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):  # the store may be available again at the next heartbeat
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
