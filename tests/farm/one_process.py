"""A farm without Ray: its planner and one actor, called one after the other."""

import contextlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mindnlp_ocr.farm.actor import Account, TaskReader, plan_chunks
from mindnlp_ocr.farm.command import farm_settings
from mindnlp_ocr.farm.inputs import documents
from mindnlp_ocr.farm.options import parser
from mindnlp_ocr.farm.parts import Row, decode
from mindnlp_ocr.farm.plan import add_documents
from mindnlp_ocr.farm.settings import FarmSettings
from mindnlp_ocr.farm.store import Store
from tests.farm.fakes import READER


def settings_of(*argv: object) -> tuple[FarmSettings, list[str]]:
    """The settings and the inputs of a command line."""
    with contextlib.redirect_stderr(io.StringIO()):
        arguments = parser().parse_args([str(word) for word in argv])
    return farm_settings(arguments, READER), arguments.inputs


def farm(*argv: object) -> list[Account]:
    """Read what a command line names; returns the accounts of all tasks."""
    settings, inputs = settings_of(*argv)
    store = Store(settings.output)
    chunks = add_documents(store, documents(inputs), settings)
    actor = TaskReader(settings)
    return [actor.do(number, task) for number, task in plan_chunks(range(chunks), settings)]


def rows(output: object) -> list[Row]:
    """All pages of a Parquet output, in the order of its files."""
    store = Store(str(output))
    folders = sorted(path.name for path in (Path(str(output)) / "pages").iterdir())
    names = [f"pages/{folder}/{name}" for folder in folders for name in store.names(f"pages/{folder}")]
    return [row for name in names for row in decode(store.read(name))]


def contents(output: Path, but: Iterable[str] = ("runs", "partial")) -> dict[str, bytes]:
    """The bytes of every file of an output, but for those of some folders and for the lock."""
    files = (path for path in sorted(output.rglob("*")) if path.is_file() and path.name != "lock")
    return {str(path.relative_to(output)): path.read_bytes() for path in files if path.parent.name not in but}


def texts(found: Iterable[Row]) -> list[Any]:
    return [row.error if row.page is None else row.page.error or row.page.text for row in found]
