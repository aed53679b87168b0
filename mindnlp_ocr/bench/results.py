"""The results of a benchmark as a JSON file: figures, command, date, machine and versions."""

import platform
import shlex
import sys
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mindnlp_ocr import __version__
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.ops.cores import usable_cores

PACKAGES = ("mindspore", "numpy", "torch", "transformers")
Value = bool | int | float | str | None
Row = dict[str, Value]


class Section(BaseModel):
    """A table of results.

    Attributes:
        title: the heading.
        about: description of the measurement and of the columns, whose names contain their units.
        rows: plain values by column, the same columns in all rows; None for values that were not measured.
    """

    model_config = ConfigDict(extra="forbid")
    title: str
    about: str = ""
    rows: list[Row] = []


class Results(BaseModel):
    """The results of a run of a benchmark.

    Attributes:
        tool: name of the tool, which determines the sections.
        command: the command as it was typed.
        date: UTC, ISO 8601.
        machine: processor, cores, memory_gb, system.
        versions: versions of this package and of its main dependencies.
        smoke: whether the run only checked that the tool works; its figures are meaningless.
    """

    model_config = ConfigDict(extra="forbid")
    tool: str
    command: str
    date: str
    machine: dict[str, Value] = Field(default_factory=lambda: machine())
    versions: dict[str, str] = Field(default_factory=lambda: versions())
    smoke: bool = False
    sections: dict[str, Section] = {}

    @classmethod
    def start(cls, tool: str | None = None, *, smoke: bool = False) -> "Results":
        """Begin the results of a tool (default: the file in tools/ that this process runs)."""
        program = Path(sys.argv[0])
        in_checkout = program.suffix == ".py"
        command = shlex.join([f"tools/{program.name}" if in_checkout else program.name, *sys.argv[1:]])
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return cls(tool=tool or program.stem, command="uv run " * in_checkout + command, date=now, smoke=smoke)

    @classmethod
    def load(cls, path: str | Path) -> "Results":
        """Read a file written by :meth:`save`.

        Raises:
            SetupError: it cannot be read, or is not such a file.
        """
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except OSError as error:
            raise SetupError(
                f"{path} cannot be read ({error.strerror}): pass a file that a benchmark wrote with --output",
                code="file_unreadable",
            ) from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise SetupError(
                f"{path} is not what a benchmark writes with --output ({where}: {first['msg']}): measure again",
                code="benchmark_invalid",
            ) from error

    def add(self, name: str, title: str, rows: Iterable[Row], about: str = "") -> None:
        """Measure a section, and print each row as soon as it is measured."""
        section = self.sections[name] = Section(title=title, about=about)
        print(title)  # noqa: T201
        for row in rows:
            section.rows.append(row)
            print("  " + ", ".join(f"{column} {shown(value)}" for column, value in row.items()), flush=True)  # noqa: T201

    def row(self, section: str, **where: Value) -> Row:
        """Return the first row of a section with these values, or an empty row, with which no criterion is met."""
        rows = self.sections[section].rows if section in self.sections else []
        return next((row for row in rows if where.items() <= row.items()), {})

    def save(self, path: str | Path) -> None:
        """Write the results to a file, and create its folder if necessary."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def shown(value: Value) -> str:
    """Format a value: three significant digits for fractions, and thousands separators."""
    if value is None:
        return "not measured"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        size = abs(value)
        return f"{value:,.0f}" if size >= 1000 else f"{value:.{1 if size >= 100 else 2 if size >= 1 else 3}f}"
    return f"{value:,}" if isinstance(value, int) else value


def machine() -> dict[str, Value]:
    """Return the name of the processor, the number of usable cores, the memory size, and the operating system."""
    rows = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = (row.partition(":")[2].strip() for row in rows if row.startswith("model name"))
    return {
        "processor": next(names, platform.processor() or "unknown"),
        "cores": usable_cores(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Return the versions of this package, Python, and the installed packages among PACKAGES."""
    found: dict[str, Any] = {"mindnlp_ocr": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
