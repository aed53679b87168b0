"""Expansion of the inputs of a farm into the names of documents."""

import json
import posixpath
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mindnlp_ocr.documents.source import SUFFIXES, expand
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.farm.store import file_system

COLUMNS = ("path", "uri")
LISTS = (".txt", ".jsonl", ".parquet")


def documents(inputs: Sequence[str]) -> Iterator[str]:
    """Yield the names of all documents, in the order of the inputs.

    Args:
        inputs: files, folders and patterns, as local paths or URIs; lists of names (``.txt`` with one name per line; ``-``
            for standard input) and of references (``.jsonl`` or ``.parquet`` with a column ``path`` or ``uri``).

    Raises:
        SetupError: a list cannot be read, or a folder cannot be listed.
    """
    for name in inputs:
        if name == "-":
            yield from _lines(sys.stdin)
        elif Path(name).suffix.lower() in LISTS:
            yield from _listed(name)
        elif "://" in name and not name.startswith("file://"):
            yield from _remote(name)
        else:
            yield from expand(name.removeprefix("file://"))


def _lines(lines: Any) -> Iterator[str]:
    for line in lines:
        text = line.decode(errors="surrogateescape") if isinstance(line, bytes) else line
        if text.strip():
            yield text.strip()


def _listed(name: str) -> Iterator[str]:
    system, path = file_system(name)
    kind = Path(name).suffix.lower()
    try:
        if kind == ".parquet":
            with system.open_input_file(path) as file:
                yield from _rows(name, file)
            return
        with system.open_input_stream(path) as stream:
            lines = _split(stream)
            yield from _lines(lines) if kind == ".txt" else _references(name, lines)
    except OSError as error:
        raise SetupError(f"the list {name} cannot be read ({error}): use another file", code="file_unreadable") from error


def _split(stream: Any) -> Iterator[bytes]:
    rest = b""
    while piece := bytes(stream.read(1 << 20)):
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    yield rest


def _references(name: str, lines: Iterator[bytes]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            (column,) = [column for column in COLUMNS if column in row][:1]
        except (ValueError, TypeError) as error:
            raise SetupError(
                f'line {number} of {name} is not a reference: use a line such as {{"path": "scan.pdf"}}, or "uri"',
                code="list_invalid",
            ) from error
        yield str(row[column])


def _rows(name: str, file: Any) -> Iterator[str]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(file)
    except pyarrow.ArrowInvalid as error:
        raise SetupError(f"{name} is not a Parquet file ({error}): write it again", code="list_invalid") from error
    columns = [column for column in COLUMNS if column in table.schema_arrow.names]
    if not columns:
        raise SetupError(
            f"{name} has no column path or uri, only {', '.join(table.schema_arrow.names)}: rename one", code="list_invalid"
        )
    for batch in table.iter_batches(columns=columns[:1]):
        yield from (str(value) for value in batch.column(0).to_pylist())


def _remote(uri: str) -> Iterator[str]:
    """Yield a document in an object store, all documents directly in a folder, or those that match a pattern."""
    from pyarrow import fs

    if uri.startswith(("http://", "https://")):
        yield uri
        return
    place, mark, query = uri.partition("?") if "*" not in uri else (uri, "", "")
    if "*" in place:
        yield from _matched(uri)
        return
    system, path = file_system(uri)
    try:
        info = system.get_file_info(path)
        if info.type != fs.FileType.Directory:
            yield uri
            return
        found = sorted(entry.path for entry in system.get_file_info(fs.FileSelector(path)) if entry.type == fs.FileType.File)
    except OSError as error:
        raise SetupError(
            f"{uri} cannot be listed ({error}): check its name and your credentials", code="listing_failed"
        ) from error
    names = [posixpath.basename(entry) for entry in found if Path(entry).suffix.lower() in SUFFIXES]
    yield from [f"{place.rstrip('/')}/{name}{mark}{query}" for name in names] or [uri]


def _matched(uri: str) -> Iterator[str]:
    from fsspec.implementations.arrow import ArrowFSWrapper

    head = uri[: uri.index("*")].rpartition("/")[0]
    mark, query = "", ""
    pattern, last = uri[len(head) :], uri.rpartition("/")[2]
    if "?" in last and "=" in last:  # options of the file system, as pyarrow's URIs have them
        pattern, mark, query = uri[len(head) :].partition("?")
    system, base = file_system(f"{head}{mark}{query}")
    try:
        found = sorted(ArrowFSWrapper(system).glob(base + pattern))
    except OSError as error:
        raise SetupError(
            f"{uri} cannot be listed ({error}): check its name and your credentials", code="listing_failed"
        ) from error
    yield from [f"{head}{path[len(base) :]}{mark}{query}" for path in found] or [uri]
