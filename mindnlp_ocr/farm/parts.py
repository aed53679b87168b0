"""The Parquet files with the results of tasks, one row per page."""

import io
import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from mindnlp_ocr.documents.result import Page
from mindnlp_ocr.documents.schema import PageResult


class Row(NamedTuple):
    """A page of a document, or a document that could not be opened.

    Attributes:
        path: name of the document.
        page: the page; None for a document that could not be opened.
        error: error of the document; the error of a page is an attribute of the page.
        error_code: identifier of this error.
    """

    path: str
    page: Page | None
    error: str | None = None
    error_code: str | None = None


def schema() -> Any:
    """Return the schema of the file. docs/cluster.md describes the columns."""
    import pyarrow as pa

    text = pa.string()
    columns = {"path": text, "page": pa.int32(), "text": text, "error": text, "error_code": text, "json": text}
    return pa.schema(list(columns.items()))


def encode(rows: Iterable[Row]) -> bytes:
    """Return the content of the file. It is reproducible, because ``timings_ms`` is left out."""
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.Table.from_pylist([_columns(row) for row in rows], schema=schema())
    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def decode(content: bytes) -> Iterator[Row]:
    """Yield the rows of a file."""
    from pyarrow import parquet

    for batch in parquet.ParquetFile(io.BytesIO(content)).iter_batches(columns=["path", "error", "error_code", "json"]):
        for columns in batch.to_pylist():
            page = None if columns["json"] is None else _page(json.loads(columns["json"]))
            yield Row(columns["path"], page, columns["error"], columns.get("error_code"))


def _columns(row: Row) -> dict[str, Any]:
    path = row.path.encode(errors="replace").decode()  # names of files may not be UTF-8
    if row.page is None:
        return {"path": path, "page": None, "text": None, "error": row.error, "error_code": row.error_code, "json": None}
    page = PageResult.of(row.page.model_copy(update={"timings_ms": {}}))
    text = None if page.error is not None else page.text
    error = {"error": page.error, "error_code": page.error_code}
    return {"path": path, "page": page.number, "text": text, **error, "json": page.model_dump_json()}


def _page(result: dict[str, Any]) -> Page:
    """Convert the JSON of a result back into a page, without the derived fields."""
    result.pop("text")
    for block in result["blocks"]:
        block.pop("text")
        for line in block["lines"]:
            line.pop("box_points")
    return Page.model_validate(result)
