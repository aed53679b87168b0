"""Output of the command line: text under the name of its file, the JSON report, and errors."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from mindnlp_ocr.errors import PageError, SetupError, coded, described


def result(path: str, outcome: Any) -> dict[str, Any]:
    """Convert an outcome to a page of the JSON report. The error of a page is also printed to standard error."""
    if isinstance(outcome, PageError):
        tqdm.write(f"error: {path}: {coded(outcome, outcome.code)}", file=sys.stderr)
        reading = dict.fromkeys(("prompt_tokens", "reused_tokens", "new_tokens"), 0)
        return {
            "image": path,
            "text": None,
            **described(outcome),
            **reading,
            "token_ids": [],
            "finish_reason": None,
            "timings_ms": {},
        }
    return {
        "image": path,
        "text": outcome.text,
        **described(None),
        "prompt_tokens": outcome.prompt_tokens,
        "reused_tokens": outcome.reused_tokens,
        "new_tokens": outcome.new_tokens,
        "token_ids": outcome.token_ids,
        "finish_reason": outcome.finish_reason,
        "timings_ms": outcome.timings_ms,
    }


def status(results: Sequence[dict[str, Any]]) -> int:
    """Return the exit status: 1 if a page has an error, else 0."""
    return 1 if any(page["error"] for page in results) else 0


def print_report(output: TextIO, results: Sequence[dict[str, Any]], model: Any, cache: Any, **more: Any) -> None:
    """Write the JSON report."""
    report = {"results": results, "model": model, "cache": cache, **more}
    json.dump(report, output, ensure_ascii=False, indent=2)
    print(file=output, flush=True)


class Printer:
    """Prints the texts of pages in order, each under its file name if ``heads`` is set."""

    def __init__(self, output: TextIO, heads: bool) -> None:
        self._output, self._heads = output, heads
        self._first = True

    def begin(self, path: str) -> None:
        if self._heads:
            print(f"{'' if self._first else os.linesep}==> {path} <==", file=self._output, flush=True)
        self._first = False

    def write(self, piece: str) -> None:
        self._output.write(piece)
        self._output.flush()

    def end(self) -> None:
        print(file=self._output, flush=True)

    def page(self, result: dict[str, Any]) -> None:
        """Print a complete page; the text of a page with an error is empty."""
        self.begin(result["image"])
        self.write(result["text"] or "")
        self.end()


class Output:
    """Standard output, or a file that is renamed to its name when it is complete. An interrupted run leaves FILE.part."""

    def __init__(self, name: str | None) -> None:
        self._path = Path(name) if name else None

    def __enter__(self) -> TextIO:
        if self._path is None:
            return standard_output()
        if self._path.is_dir():
            raise SetupError(
                f"--output {self._path} cannot be written (Is a directory): name a file", code="output_unwritable"
            )
        self._partial = self._path.with_name(self._path.name + ".part")
        try:
            self._file = self._partial.open("w", encoding="utf-8", errors="replace")
        except OSError as error:
            raise SetupError(
                f"--output {self._path} cannot be written ({error.strerror}): name another file", code="output_unwritable"
            ) from error
        return self._file

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._path is None:
            return
        self._file.close()
        if kind is None:
            self._partial.replace(self._path)
        elif self._partial.stat().st_size == 0:
            self._partial.unlink()
        else:
            print(f"partial output is in {self._partial}", file=sys.stderr)


def standard_output() -> TextIO:
    """Return standard output, encoded in UTF-8 regardless of the locale."""
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    return sys.stdout
