"""Work that has ended a process, done again in a process of its own, so that nothing else ends with it.

Run as a program, this is that process. It is told by standard input what to do, and answers with lines of JSON on a pipe.
"""

import contextlib
import ctypes
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from mindnlp_ocr.documents.result import Page
from mindnlp_ocr.errors import PageError, SetupError
from mindnlp_ocr.farm.opening import count_pages
from mindnlp_ocr.farm.settings import FarmSettings

TRIES = 2  # of what ends its process
END_SECONDS = 10.0  # for a process that has answered all
PR_SET_PDEATHSIG = 1

Kind = Literal["count", "read"]
Item = tuple[str, str, int]  # a document's name and place, and the index of a page
# Before MindSpore is imported, which makes our operators slow in processes that are started afterwards.
ENVIRONMENT = dict(os.environ)


class Begun(int):
    """The number of the item that is being worked on."""


def alone(kind: Kind, items: Sequence[Item], settings: FarmSettings, given_up: dict[int, str]) -> Iterator[Any]:
    """Work on items one by one. Yields :class:`Begun` before each, and what came of it: the JSON of a page or a number of
    pages; or a PageError, which says how the process ended twice.

    Args:
        given_up: items, by their numbers, that are not tried, and why.

    Raises:
        SetupError: the model cannot be loaded.
    """
    number, tries = 0, 0
    while number < len(items):
        if number in given_up:
            yield PageError(given_up[number])
            number += 1
            continue
        stop = next((n for n in range(number, len(items)) if n in given_up), len(items))
        process = _Process(kind, items[number:stop], settings)
        for line in process.lines():
            if "begun" in line:
                yield Begun(number)
                process.go_on()
            elif "setup" in line:
                raise SetupError(line["setup"])
            else:
                yield line["result"] if "result" in line else PageError(line["error"])
                number, tries = number + 1, 0
        if number < stop:
            tries += 1
            if tries == TRIES:
                yield PageError(
                    f"{process.end()} ended the process that worked on nothing else, {TRIES} times: leave the page out, or "
                    "give its reader more memory"
                )
                number, tries = number + 1, 0


class _Process:
    def __init__(self, kind: Kind, items: Sequence[Item], settings: FarmSettings) -> None:
        reading, writing = os.pipe()
        environment = ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-m", "mindnlp_ocr.farm.alone", str(writing), str(os.getpid())]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=[writing], env=environment
        )
        os.close(writing)
        self._answers = os.fdopen(reading, encoding="utf-8")
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone: its end says why
            pickle.dump((kind, list(items), settings), self._process.stdin)
            self._process.stdin.flush()

    def go_on(self) -> None:
        """It begins an item when that has been noted here: the item may end both."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()

    def lines(self) -> Iterator[dict[str, Any]]:
        """What it answers, until it ends."""
        try:
            with self._answers:
                for line in self._answers:
                    if line.endswith("\n"):  # else it died within the line
                        yield json.loads(line)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)
        finally:
            self._process.kill()  # where it has not ended, or nobody listens any more
            self._process.wait()
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()  # type: ignore[union-attr]

    def end(self) -> str:
        """How it ended."""
        code = self._process.returncode
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"


# The process


def main() -> None:
    writing, parent = map(int, sys.argv[1:])
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before that
        os._exit(1)
    kind, items, settings = pickle.load(sys.stdin.buffer)
    with os.fdopen(writing, "w", encoding="utf-8") as answers:

        def answer(**line: Any) -> None:
            answers.write(json.dumps(line) + "\n")
            answers.flush()

        try:
            reader = settings.new_reader() if kind == "read" else None
        except SetupError as error:
            answer(setup=str(error))
            return
        for name, place, index in items:
            answer(begun=True)
            sys.stdin.buffer.readline()
            try:
                if reader is None:
                    answer(result=count_pages(name, place, settings))
                else:
                    answer(result=_page(reader, name, place, index))
            except PageError as error:
                answer(error=str(error))
            except Exception as error:
                answer(error=str(PageError(f"{type(error).__name__}: {error}: see the log of the worker")))


def _page(reader: Any, name: str, place: str, index: int) -> str:
    (page,) = reader.read([(name, place, [index])])
    assert isinstance(page, Page)
    return page.model_dump_json()


if __name__ == "__main__":
    main()
