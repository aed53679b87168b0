"""The commands and links in the documentation, and how they are run."""

import argparse
import ast
import contextlib
import gc
import io
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mindnlp_ocr import cli
from mindnlp_ocr.commands import COMMANDS
from tests.cluster.runs import clean_environment
from tests.conftest import ROOT

WITH_COMMANDS = [ROOT / "README.md", ROOT / "README.zh.md", ROOT / "CONTRIBUTING.md"]
WITH_COMMANDS += [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
WITH_COMMANDS += [*sorted((ROOT / "kernels").rglob("*.md")), *sorted((ROOT / "contrib").rglob("*.md"))]
DOCUMENTS = [*WITH_COMMANDS, ROOT / "CHANGELOG.md"]
DOCUMENTS += [*sorted(ROOT.glob("THIRD*.md")), *sorted((ROOT / "mindnlp_ocr" / "assets").rglob("*.md"))]

Command = tuple[str, ...]
DOORS = {"server.command": "serve", "farm.command": "batch", "commands.benchmark_report": "report"}


class Outcome(NamedTuple):
    """The result of a command."""

    status: int
    out: str
    err: str


class ParsedError(BaseException):
    """Raised when a tool has parsed its options. It is no Exception, so that tools do not catch it."""


def blocks(path: Path, language: str) -> list[str]:
    """Return the code blocks of a document."""
    text = path.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(path: Path) -> list[Command]:
    """Return the commands of the sh blocks of a document, one by one, without comments."""
    lines = [line for block in blocks(path, "sh") for line in block.replace("\\\n", " ").splitlines()]
    return [command for line in lines for command in _parts(shlex.split(line, comments=True))]


def inline(path: Path) -> list[Command]:
    """Return the complete commands within sentences; commands with placeholders such as [OPTION] or ... are omitted."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = [shlex.split(code) for code in re.findall(r"`((?:uv run )?(?:tools/\w+\.py|mindnlp-ocr)(?: [^`]*)?)`", text)]
    return [tuple(words) for words in found if not re.search(r"\.\.\.|\[", " ".join(words))]


def of_head(path: Path) -> list[Command]:
    """Return the commands in the docstring of a tool, which --help shows; two spaces separate a command from its comment."""
    lines = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()
    found = [
        re.split(r"\s{2,}", line.strip())[0] for line in lines if line.strip().startswith(("uv run tools/", "mindnlp-ocr "))
    ]
    return [command for line in found if "[" not in line for command in _parts(shlex.split(line, comments=True))]


def _parts(words: list[str]) -> Iterator[Command]:
    while words:
        end = words.index("&&") if "&&" in words else len(words)
        yield tuple(words[:end])
        words = words[end + 1 :]


def tool(command: Command) -> tuple[str, list[str]]:
    """Return the tool of this project that a command runs, and its arguments; "" for other programs."""
    for number, word in enumerate(command):
        if re.fullmatch(r"tools/\w+\.py", word):
            return word, list(command[number + 1 :])
    if command[0] != "mindnlp-ocr":
        return "", []
    for words, (module, _) in COMMANDS.items():  # each of them has a tool that calls it
        if " ".join(command[1:]).startswith(words):
            name = DOORS.get(module, module.split(".")[-1])
            return f"tools/{name}.py", list(command[1 + len(words.split()) :])
    return "mindnlp-ocr", list(command[1:])


def in_place(words: list[str], folder: Path) -> list[str]:
    """Replace paths by those of the sandbox, which is the current folder and HOME."""
    return [re.sub("^~(?=/)", str(folder), re.sub("^/path/to/", "path/to/", word)) for word in words]


def call(name: str, arguments: list[str], folder: Path) -> Outcome:
    """Run a tool in this process, with a folder as current folder and HOME."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(folder)
        patch.setenv("HOME", str(folder))
        patch.setattr("sys.argv", [name, *in_place(arguments, folder)])
        status: Any = 0
        try:
            status = cli.main() if name == "mindnlp-ocr" else runpy.run_path(name, run_name="__main__") and 0
        except SystemExit as exit_:
            status = exit_.code or 0
    gc.collect()  # a model is a ring of objects, of more than 100 MB
    return Outcome(status if isinstance(status, int) else 1, *map(_written, (out, err)))


def _written(file: io.TextIOWrapper) -> str:
    file.flush()
    return file.buffer.getvalue().decode("utf-8")  # type: ignore[attr-defined]


def call_cold(arguments: list[str], folder: Path) -> Outcome:
    """Run the command line in a separate process, because its settings apply to a whole process."""
    environment = clean_environment() | {"HOME": str(folder)}
    command = [sys.executable, "-m", "mindnlp_ocr.cli", *in_place(arguments, folder)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr)


def parse(command: Command, folder: Path) -> str:
    """Return the error of a tool for the options of a command, or "" if it accepts them."""
    name, arguments = tool(command)
    real = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *given: Any) -> Any:
        real(parser, *given)
        raise ParsedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        try:
            outcome = call(name, arguments, folder)
        except ParsedError:
            return ""
    return outcome.err or f"{name} read no options"


def links(path: Path) -> list[str]:
    """Return the targets of links and images in a document, outside code."""
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [link or image for link, image in re.findall(r"\]\(([^()\s]+)\)|src=\"([^\"]+)\"", text)]


def anchors(path: Path) -> set[str]:
    """Return the anchors of the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
