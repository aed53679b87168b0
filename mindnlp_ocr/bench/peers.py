"""Comparison of engines that read the same pages in separate processes, by time, tokens and text."""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mindnlp_ocr.bench.accuracy import Score, score
from mindnlp_ocr.bench.results import Row

OURS = "ours"
TIMES = ("page_ms", "first_token_ms", "per_token_ms")
Reading = dict[str, Any]  # TIMES, text, token_ids and prompt_tokens; None for values that the engine does not have
TAIL = 8  # number of reported lines of the output of a process that died
LANGUAGES = ("eng", "chi_sim")  # languages of Tesseract


class Absent(Exception):
    """A peer is not installed. The message states what is missing and how to install it."""


def tesseract_command(serve: Path, segmentation: int) -> list[str]:
    """Return the command that starts Tesseract.

    Args:
        serve: tools/peers/peer.py.
        segmentation: Tesseract's page segmentation mode, --psm.

    Raises:
        Absent: Tesseract or one of its languages is not installed.
    """
    remedy = "run `apt-get install tesseract-ocr tesseract-ocr-chi-sim`"
    if shutil.which("tesseract") is None:
        raise Absent(f"no tesseract on PATH: {remedy}")
    listed = subprocess.run(["tesseract", "--list-langs"], capture_output=True, check=False, text=True)
    if missing := set(LANGUAGES) - set((listed.stdout + listed.stderr).split()):
        raise Absent(f"tesseract has no {' and no '.join(sorted(missing))}: {remedy}")
    return [sys.executable, str(serve), "tesseract", str(segmentation)]


def rapidocr_command(serve: Path) -> list[str]:
    """Return the command that starts RapidOCR, which is a dependency of this package."""
    return [sys.executable, str(serve), "rapidocr"]


class Stopped(Exception):
    """The process of an engine has exited. The message contains the end of its output."""


class Worker:
    """A process that reads pages: one path per line as input, one JSON object per line as output (tools/peers/peer.py)."""

    def __init__(self, command: Sequence[str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, encoding="utf-8"
            )
        except OSError as error:
            raise Stopped(f"{command[0]} cannot be started ({error.strerror})") from error

    def read(self, path: str) -> Reading:
        """Return the result for a page, or only an ``error``.

        Raises:
            Stopped: the process has ended.
        """
        assert self._process.stdin
        try:
            print(path, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._stopped() from None
        return self._answer()

    def end(self) -> dict[str, Any]:
        """Return peak_mb and version."""
        assert self._process.stdin
        self._process.stdin.close()
        answer = self._answer()
        self._process.wait()
        return answer

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise self._stopped()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _stopped(self) -> Stopped:
        status = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode("utf-8", "replace").splitlines()[-TAIL:]
        return Stopped("\n    ".join([f"its process ended with exit status {status} after this output:", *said]))


class Peers:
    """The compared engines by name, including ours.

    Attributes:
        failures: messages about engines that stopped and pages that could not be read.
    """

    def __init__(self, commands: Mapping[str, Sequence[str]]) -> None:
        self.failures: list[str] = []
        self._names = list(commands)
        self._workers: dict[str, Worker] = {}
        self._truths = 0
        self._scores: dict[str, list[Score]] = {name: [] for name in commands}
        self._ratios: dict[str, list[float]] = {name: [] for name in commands}
        for name, command in commands.items():
            try:
                self._workers[name] = Worker(command)
            except Stopped as error:
                self._fail(name, str(error))

    def compare(self, page: str, truth: str | None, runs: int) -> list[Row]:
        """Return one row per engine: medians of ``runs`` rounds after a warm-up round."""
        readings: dict[str, list[Reading]] = {name: [] for name in self._names}
        asked = list(self._workers)
        for _ in range(1 + runs):
            for name in list(asked):
                reading = self._ask(name, page)
                if reading is None:
                    asked.remove(name)
                    readings[name].clear()
                else:
                    readings[name].append(reading)
        self._truths += truth is not None
        compared = rows(page, truth, readings)
        for row in compared:
            name = str(row["engine"])
            if truth is not None and readings[name]:
                self._scores[name].append(score(truth, readings[name][0]["text"], loose=True))
            if row["ratio"] is not None:
                self._ratios[name].append(float(row["ratio"]))
        return compared

    def totals(self) -> Iterator[Row]:
        """End the processes. Returns one row per engine, without error rates if it did not read all pages with ground
        truth."""
        for name in self._names:
            about: Row = {"peak_mb": None, "version": None}
            if name in self._workers:
                try:
                    about = self._workers[name].end()
                except Stopped as error:
                    self._fail(name, str(error))
            scores, ratios = self._scores[name], self._ratios[name]
            cer = sum(scores, Score()).cer_percent if scores and len(scores) == self._truths else None
            median = statistics.median(ratios) if ratios else None
            yield {"engine": name, "cer_percent": cer, "compared_pages": len(ratios), "median_ratio": median, **about}

    def close(self) -> None:
        """Kill all running processes."""
        for worker in self._workers.values():
            worker.kill()

    def _ask(self, name: str, page: str) -> Reading | None:
        try:
            reading = self._workers[name].read(page)
        except Stopped as error:
            del self._workers[name]
            self._fail(name, str(error))
            return None
        if "error" in reading:
            self._fail(name, f"{page} could not be read: {reading['error']}")
            return None
        return reading

    def _fail(self, name: str, reason: str) -> None:
        self.failures.append(f"{name}: {reason}")
        print(f"error: {self.failures[-1]}", file=sys.stderr, flush=True)  # noqa: T201


def rows(page: str, truth: str | None, readings: Mapping[str, Sequence[Reading]]) -> list[Row]:
    """Return one row per engine from its readings of a page. The first reading is the warm-up; a failed engine has none.

    There is no ratio if the number of prompt tokens differs from ours, because the image was resized differently.
    """
    ours = readings[OURS][0] if readings[OURS] else {}
    base = _median(readings[OURS], "page_ms")
    compared: list[Row] = []
    for name, of in readings.items():
        first = of[0] if of else {}
        page_ms, first_ms, token_ms = (_median(of, time) for time in TIMES)
        tokens, prompt = first.get("token_ids"), first.get("prompt_tokens")
        like = prompt is None or prompt == ours.get("prompt_tokens")
        compared.append(
            {
                "page": Path(page).name,
                "engine": name,
                "page_ms": page_ms,
                "ratio": page_ms / base if base and page_ms and like else None,
                "first_token_ms": first_ms,
                "per_token_ms": token_ms,
                "same_tokens": tokens == ours["token_ids"] if name != OURS and tokens is not None and ours else None,
                "cer_percent": score(truth, first["text"], loose=True).cer_percent if first and truth is not None else None,
            }
        )
    return compared


def _median(readings: Sequence[Reading], time: str) -> float | None:
    values = [reading[time] for reading in readings[1:]]
    return statistics.median(values) if values and None not in values else None
