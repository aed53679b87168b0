"""The scheduler's part in reading many pages: it takes what the workers read, and knows at once who is gone.

It outlives them: msrun kills the other workers when one fails, and waits for its scheduler.
"""

import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mindnlp_ocr.cluster.launch import Launch
from mindnlp_ocr.cluster.wire import CHUNK, Lines, encode, name_of, tune
from mindnlp_ocr.errors import PageError, SetupError
from mindnlp_ocr.output import result

GRACE_SECONDS = 10.0  # for workers that have not come when others have failed and none is left
REPORT_SECONDS = 60.0


def share(pages: int, rank: int, ranks: int) -> range:
    """The pages of a rank: every ``ranks``-th."""
    return range(rank, pages, ranks)


@dataclass
class Worker:
    """What the scheduler knows of one.

    Attributes:
        fault: why it reads no more; None where nothing is wrong.
        lost: the names of those pages that it did not read.
        over: it has read all its pages, or reads no more.
        refusal: why it came and could not read.
        info: its model's and its cache's, when it has read all.
    """

    rank: int
    pages: range
    connection: socket.socket | None = None
    fault: str | None = None
    lost: list[str] = field(default_factory=list)
    over: bool = False
    refusal: str | None = None
    info: dict[str, Any] = field(default_factory=dict)


class Gather:
    """Results of all workers. Use as a context manager.

    Raises:
        SetupError: the port cannot be listened on.
    """

    def __init__(self, launch: Launch, paths: Sequence[str]) -> None:
        self._paths, self._seconds, self._name = paths, launch.seconds, name_of(paths)
        self.workers = [Worker(rank, share(len(paths), rank, launch.ranks)) for rank in range(launch.ranks)]
        self._read: dict[int, dict[str, Any]] = {}
        self._any = False  # page that has been read
        self._refusal: str | None = None
        self._selector = selectors.DefaultSelector()
        try:
            self._listener = socket.create_server((launch.host, launch.port), backlog=128)
        except OSError as error:
            raise SetupError(
                f"{launch.host}:{launch.port} cannot be listened on ({error.strerror}): give msrun another --master_port, "
                "and an address of this machine as --master_addr"
            ) from error
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._started = self._changed = time.monotonic()

    def __enter__(self) -> "Gather":
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self.workers:
            if worker.connection is not None:
                worker.connection.close()
        self._listener.close()
        self._selector.close()

    def results(self) -> Iterator[dict[str, Any]]:
        """Every page as the report has it, in order; of a worker that is gone, with the error that says so.

        Raises:
            SetupError: no worker can read anything.
        """
        for number, path in enumerate(self._paths):
            worker = self.workers[number % len(self.workers)]
            while number not in self._read and not worker.over:
                self._step()
            if number not in self._read:
                self._refuse_all(worker)
                worker.lost.append(path)
            yield (
                self._read.pop(number) if number in self._read else result(path, PageError(f"{worker.fault}: read it again"))
            )
        while not all(worker.over for worker in self.workers):
            self._step()

    def _refuse_all(self, worker: Worker) -> None:
        while worker.refusal and not self._any and not all(worker.over for worker in self.workers):
            self._step()
        if worker.refusal and all(worker.refusal for worker in self.workers):  # as a rule for the same reason
            raise SetupError(worker.refusal)

    @property
    def faults(self) -> list[str]:
        """A line for each worker that did not read all its pages, with their names."""
        return [
            f"{worker.fault}: {len(worker.lost)} of its {len(worker.pages)} pages were not read: {', '.join(worker.lost)}"
            for worker in self.workers
            if worker.lost
        ]

    def refuse(self, reason: str) -> None:
        """Tell all workers, as they come, that there is nothing to be done."""
        self._refusal = reason
        while not all(worker.over for worker in self.workers):
            self._step()

    def report(self, rank: int, message: dict[str, Any]) -> bool:
        """Send the end of it all to a worker; whether it is still there."""
        connection = self.workers[rank].connection
        if connection is None:
            return False
        try:
            connection.settimeout(REPORT_SECONDS)
            connection.sendall(encode(message))
        except OSError:
            return False
        return True

    # One thing that happens

    def _step(self) -> None:
        for key, _ in self._selector.select(timeout=1.0):
            if key.fileobj is self._listener:
                connection, _ = self._listener.accept()
                tune(connection)
                self._selector.register(connection, selectors.EVENT_READ, (Lines(), []))
            else:
                self._take(key)
        self._miss()

    def _take(self, key: selectors.SelectorKey) -> None:
        connection = key.fileobj
        assert isinstance(connection, socket.socket)
        lines, owner = key.data
        try:
            data = connection.recv(CHUNK)
            for message in lines.feed(data):
                if owner:
                    self._note(owner[0], message)
                elif (worker := self._welcome(connection, message)) is not None:
                    owner.append(worker)
        except (OSError, ValueError, KeyError, TypeError):  # gone, or none of ours
            data = b""
        if not data:
            self._selector.unregister(connection)
            connection.close()
            if owner:
                self._left(owner[0])

    def _welcome(self, connection: socket.socket, message: dict[str, Any]) -> Worker | None:
        worker = self.workers[range(len(self.workers)).index(message["rank"])]
        if self._refusal is not None:
            error: str | None = self._refusal
        elif message["name"] != self._name:
            error = "it sees other pages than the scheduler, or runs another release: give all machines the same files"
        else:
            error = None
        if worker.connection is not None or worker.over:
            connection.sendall(encode({"error": f"rank {worker.rank} is there already: is msrun run twice on this port?"}))
            return None
        worker.connection = connection
        connection.sendall(encode({"error": error}))
        if error is not None:
            self._lose(worker, f"rank {worker.rank} cannot read: {error}", error)
        return worker

    def _note(self, worker: Worker, message: dict[str, Any]) -> None:
        if "page" in message:
            if message["page"] in worker.pages and not worker.over:
                self._read[message["page"]], self._any = message["result"], True
        elif "failed" in message:
            self._lose(worker, f"rank {worker.rank} cannot read: {message['failed']}", str(message["failed"]))
        elif "end" in message:
            worker.info, worker.over = message["end"], True

    def _left(self, worker: Worker) -> None:
        worker.connection, self._changed = None, time.monotonic()
        if not worker.over:
            self._lose(worker, f"rank {worker.rank} died")

    def _lose(self, worker: Worker, fault: str, refusal: str | None = None) -> None:
        worker.fault, worker.over, worker.refusal = fault, True, refusal
        self._changed = time.monotonic()

    def _miss(self) -> None:
        """Workers that do not come."""
        now = time.monotonic()
        alone = all(worker.connection is None for worker in self.workers) and any(worker.fault for worker in self.workers)
        if now - self._started > self._seconds or (alone and now - self._changed > GRACE_SECONDS):
            for worker in self.workers:
                if worker.connection is None and not worker.over:
                    self._lose(worker, f"rank {worker.rank} did not come within {now - self._started:.0f} seconds")
