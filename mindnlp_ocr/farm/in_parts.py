"""The reader of an actor with ``--tensor-parallel``: a model split over several processes on one machine.

The actor is rank 0. It starts the other ranks and MindSpore's scheduler as child processes, which run this module as a
program. All ranks make the same calls in the same order. A child receives pickled settings and tasks on standard input and
exits when it is closed.
"""

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

from mindnlp_ocr.documents.result import Page
from mindnlp_ocr.errors import SetupError, coded
from mindnlp_ocr.farm.alone import ENVIRONMENT
from mindnlp_ocr.farm.settings import FarmSettings, Wanted

HOST = "127.0.0.1"
SETUP_SECONDS = 30.0  # time for rank 0 to report the same error itself


class PartsReader:
    """Rank 0. If any process of the model exits, this one exits as well, and Ray restarts the actor.

    Raises:
        SetupError: the model or the device cannot be used.
    """

    def __init__(self, settings: FarmSettings) -> None:
        self._closed = False
        count = settings.arguments["tensor_parallel"]
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
        shared = {"MS_WORKER_NUM": str(count), "MS_SCHED_HOST": HOST, "MS_SCHED_PORT": str(port)}
        roles = [{"MS_ROLE": "MS_SCHED"}] + [{"MS_ROLE": "MS_WORKER", "MS_NODE_ID": str(rank)} for rank in range(1, count)]
        self._others = [_started(shared | role, settings) for role in roles]
        self._ranks = self._others[1:]
        for other in self._others:
            threading.Thread(target=self._watch, args=[other], daemon=True).start()
        os.environ.update(shared | {"MS_ROLE": "MS_WORKER", "MS_NODE_ID": "0"})
        try:
            self._reader = _reader(settings, 0)
        except SetupError:
            self._close()
            raise

    def read(self, wanted: Sequence[Wanted]) -> Iterator[Page]:
        """Read pages on all ranks. See :meth:`PageReader.read`."""
        try:
            for rank in self._ranks:
                _tell(rank, list(wanted))
            yield from self._reader.read(wanted)
        except SetupError:
            self._close()
            raise
        except Exception:  # the ranks are no longer synchronised, so none of them can continue
            traceback.print_exc()
            os.kill(os.getpid(), signal.SIGKILL)

    def _watch(self, other: "subprocess.Popen[bytes]") -> None:
        other.wait()
        if not self._closed:
            print(
                f"another rank exited with status {other.returncode}, so this process exits as well",
                file=sys.stderr,
                flush=True,
            )
            os.kill(os.getpid(), signal.SIGKILL)

    def _close(self) -> None:
        self._closed = True
        for other in self._others:
            other.kill()
            other.wait()


def _started(variables: dict[str, str], settings: FarmSettings) -> "subprocess.Popen[bytes]":
    environment = ENVIRONMENT | variables | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "mindnlp_ocr.farm.in_parts"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment)
    _tell(process, settings)
    return process


def _tell(process: "subprocess.Popen[bytes]", what: Any) -> None:
    assert process.stdin is not None
    pickle.dump(what, process.stdin)
    process.stdin.flush()


def _reader(settings: FarmSettings, rank: int) -> Any:
    from mindnlp_ocr.farm.reading import PageReader  # and MindSpore, which reads the rank from the environment

    if settings.arguments["device"].startswith("npu"):
        settings = replace(settings, arguments=settings.arguments | {"device": f"npu:{rank}"})
    reader = PageReader(settings)
    if reader.finds_blocks:
        raise SetupError(
            "a model in parts cannot find the blocks of pages, because their requests have no fixed order: use --layout "
            "lines or page",
            code="blocks_in_parts",
        )
    return reader


# Child processes: the other ranks and the scheduler


def main() -> None:
    settings = pickle.load(sys.stdin.buffer)
    wanted: SimpleQueue[Sequence[Wanted]] = SimpleQueue()

    def listen() -> None:
        try:
            while True:
                wanted.put(pickle.load(sys.stdin.buffer))
        except (EOFError, pickle.UnpicklingError):
            os._exit(0)  # rank 0 has exited, and the main thread may be blocked in a collective call

    threading.Thread(target=listen, daemon=True).start()
    try:
        if os.environ["MS_ROLE"] == "MS_SCHED":
            from mindnlp_ocr.cluster.parts import meet

            meet(settings.namespace())
            return
        reader = _reader(settings, int(os.environ["MS_NODE_ID"]))
        while True:
            for _ in reader.read(wanted.get()):
                pass
    except SetupError as error:
        print(f"error: {coded(error, error.code)}", file=sys.stderr, flush=True)
        time.sleep(SETUP_SECONDS)
        sys.exit(2)


if __name__ == "__main__":
    main()
