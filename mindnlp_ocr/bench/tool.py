"""Functions shared by tools, without MindSpore: parsing of numbers, output files and exit status."""

import argparse
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from mindnlp_ocr.bench.results import Results, Section
from mindnlp_ocr.errors import OCRError, SetupError, coded


def positive(text: str) -> int:
    """Parse an option's value as a whole number, 1 or more."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number: use 1 or more")
    return int(text)


def writable(name: str | None) -> None:
    """Raise a SetupError if a file cannot be written, before anything is measured."""
    if name is None:
        return
    try:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).open("a").close()
    except OSError as error:
        raise SetupError(
            f"{name} cannot be written ({error.strerror}): name another file", code="output_unwritable"
        ) from error


def ready(arguments: argparse.Namespace) -> None:
    """Raise a SetupError if --output or --report cannot be written, before anything is measured."""
    writable(arguments.output)
    if arguments.report and importlib.util.find_spec("matplotlib") is None:
        raise SetupError(
            "--report needs matplotlib, which is not installed: run `pip install 'mindnlp-ocr[bench]'`",
            code="package_missing",
        )


def finish(results: Results, arguments: argparse.Namespace) -> None:
    """Write the files that --output and --report request."""
    if arguments.report:
        from mindnlp_ocr.bench.plots import drawn  # matplotlib is an optional dependency
        from mindnlp_ocr.bench.report import write_report

        results.sections["report"] = Section(title="The report", rows=[{"plots": len(drawn(results))}])
        for path in write_report([results], arguments.report / "report.md"):
            print(f"wrote {path}")  # noqa: T201
    if arguments.output:
        results.save(arguments.output)


def checkout(needed: str) -> Path:
    """Return the folder of the repository that contains this package.

    Raises:
        SetupError: the package was installed without its repository, which contains what is ``needed``.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / "tools").is_dir() or not (root / "examples").is_dir():
        raise SetupError(
            f"{needed}: these files are in the repository and not in the installed package: run the command in a checkout, "
            "or name files of your own (see --help)",
            code="repository_files_missing",
        )
    return root


def exit_status(run: Callable[[], int | None]) -> int:
    """Run a command and return its exit status: 2, with a message on standard error, after an OCRError."""
    try:
        return run() or 0
    except OCRError as error:
        print(f"error: {coded(error, error.code)}", file=sys.stderr)  # noqa: T201
        return 2


def run_tool(main: Callable[[], int | None]) -> NoReturn:
    """Run a tool and exit with its :func:`exit_status`."""
    sys.exit(exit_status(main))
