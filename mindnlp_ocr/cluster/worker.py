"""A worker's part in reading many pages: a process that reads, and one that stays when it dies.

msrun kills all workers when one fails. The one that it started does little that could fail: it waits for the one that reads.
"""

import multiprocessing
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from mindnlp_ocr.cluster.launch import Launch
from mindnlp_ocr.cluster.wire import CHUNK, Lines, encode, name_of, tune
from mindnlp_ocr.errors import SetupError

RETRY_SECONDS = 0.2
ANSWER_SECONDS = 30.0


def supervise(read: Callable[..., int], rank: int, *arguments: Any) -> int:
    """Run ``read`` in a process of its own. Returns 0, too, where that died: the scheduler has seen it, and says so."""
    process = multiprocessing.get_context("spawn").Process(target=_read, args=(read, arguments))
    process.start()
    process.join()
    code = process.exitcode or 0
    if code < 0:
        print(f"error: rank {rank} died of signal {-code} (9: perhaps no memory was left)", file=sys.stderr)
    elif code:
        print(f"error: rank {rank} ended with status {code}", file=sys.stderr)
    return 0


def _read(read: Callable[..., int], arguments: Sequence[Any]) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    sys.exit(read(*arguments))


class Scheduler:
    """The scheduler, as a worker sees it. Use as a context manager.

    Raises:
        SetupError: it cannot be reached, or refuses.
    """

    def __init__(self, launch: Launch, paths: Sequence[str]) -> None:
        self._place, self._lines = f"{launch.host}:{launch.port}", Lines()
        self._connection = self._connect(launch)
        tune(self._connection)
        self._connection.settimeout(ANSWER_SECONDS)
        self.send({"rank": launch.rank, "name": name_of(paths)})
        error = self.receive()["error"]
        self._connection.settimeout(None)
        if error is not None:
            raise SetupError(error)

    def __enter__(self) -> "Scheduler":
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()

    def _connect(self, launch: Launch) -> socket.socket:
        end = time.monotonic() + launch.seconds
        while True:
            try:
                return socket.create_connection((launch.host, launch.port), timeout=ANSWER_SECONDS)
            except OSError as error:
                if time.monotonic() > end:
                    raise self._gone(error) from error
            time.sleep(RETRY_SECONDS)

    def send(self, message: dict[str, Any]) -> None:
        """Errors as the class."""
        try:
            self._connection.sendall(encode(message))
        except OSError as error:
            raise self._gone(error) from error

    def receive(self) -> dict[str, Any]:
        """The next message. Errors as the class."""
        try:
            while data := self._connection.recv(CHUNK):
                for message in self._lines.feed(data):
                    return message
        except (OSError, ValueError) as error:
            raise self._gone(error) from error
        raise self._gone("it hung up")

    def _gone(self, reason: object) -> SetupError:
        return SetupError(f"the scheduler at {self._place} cannot be reached ({reason}): see scheduler.log, and start again")
