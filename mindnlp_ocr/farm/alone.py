"""Isolation of work that has crashed a process: its items are processed one by one in a child process.

The child process runs this module as a program. It receives its work on standard input and answers with lines of JSON on a
pipe.
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

TRIES = 2  # attempts for an item that crashes its process
END_SECONDS = 10.0  # time in which a process must exit after its last answer
PR_SET_PDEATHSIG = 1

Kind = Literal["count", "read"]
Item = tuple[str, str, int]  # name and location of a document, and the index of a page
# Copied before MindSpore is imported, because its changes to the environment slow down our operators in child processes.
ENVIRONMENT = dict(os.environ)


class Begun(int):
    """The number of the item that is being processed."""


def alone(kind: Kind, items: Sequence[Item], settings: FarmSettings, given_up: dict[int, str]) -> Iterator[Any]:
    """Process items one by one. For each, yields :class:`Begun` and then its result: the JSON of a page or a number of
    pages, or a PageError, for example if the item crashed the process twice.

    Args:
        given_up: error messages of items that are skipped, by number.

    Raises:
        SetupError: the model cannot be loaded.
    """
    number, tries = 0, 0
    while number < len(items):
        if number in given_up:
            yield PageError(given_up[number], code="page_crashed")
            number += 1
            continue
        stop = next((n for n in range(number, len(items)) if n in given_up), len(items))
        process = _Process(kind, items[number:stop], settings)
        for line in process.lines():
            if "begun" in line:
                yield Begun(number)
                process.go_on()
            elif "setup" in line:
                raise SetupError(line["setup"], code=line["code"])
            else:
                yield line["result"] if "result" in line else PageError(line["error"], code=line["code"])
                number, tries = number + 1, 0
        if number < stop:
            tries += 1
            if tries == TRIES:
                yield PageError(
                    f"{process.end()} ended the process that worked only on this page, {TRIES} times: leave the page out, "
                    "or give its reader more memory",
                    code="page_crashed",
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
        with contextlib.suppress(BrokenPipeError):  # the process has exited, and its exit status is reported later
            pickle.dump((kind, list(items), settings), self._process.stdin)
            self._process.stdin.flush()

    def go_on(self) -> None:
        """Let the child start an item. Called after the caller has recorded the item, which may crash both processes."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the answers of the process until it exits."""
        try:
            with self._answers:
                for line in self._answers:
                    if line.endswith("\n"):  # an incomplete line means that the process died while writing it
                        yield json.loads(line)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)
        finally:
            self._process.kill()  # the process may still run, or the caller may have stopped reading
            self._process.wait()
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()  # type: ignore[union-attr]

    def end(self) -> str:
        """Return how the process ended: a signal or an exit status."""
        code = self._process.returncode
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"


# The child process


def main() -> None:
    writing, parent = map(int, sys.argv[1:])
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent had exited before prctl
        os._exit(1)
    kind, items, settings = pickle.load(sys.stdin.buffer)
    with os.fdopen(writing, "w", encoding="utf-8") as answers:

        def answer(**line: Any) -> None:
            answers.write(json.dumps(line) + "\n")
            answers.flush()

        try:
            reader = settings.new_reader() if kind == "read" else None
        except SetupError as error:
            answer(setup=str(error), code=error.code)
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
                answer(error=str(error), code=error.code)
            except Exception as error:
                fault = PageError(f"{type(error).__name__}: {error}: see the worker's log", code="internal_error")
                answer(error=str(fault), code=fault.code)


def _page(reader: Any, name: str, place: str, index: int) -> str:
    (page,) = reader.read([(name, place, [index])])
    assert isinstance(page, Page)
    return page.model_dump_json()


if __name__ == "__main__":
    main()
