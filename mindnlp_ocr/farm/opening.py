"""Opening of documents in a farm: from a disk, or after a download to a temporary file."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mindnlp_ocr.documents.source import Source
from mindnlp_ocr.errors import PageError, SetupError
from mindnlp_ocr.farm.settings import FarmSettings
from mindnlp_ocr.farm.store import file_system


@contextmanager
def opened(name: str, place: str, settings: FarmSettings) -> Iterator[Source]:
    """Open a document.

    Args:
        name: name of the document in messages and results.
        place: absolute path or URI.

    Raises:
        PageError: the document cannot be opened or downloaded.
    """
    with tempfile.TemporaryDirectory(prefix="mindnlp-ocr-") as folder:
        if "://" in place and not place.startswith(("http://", "https://")):
            content: Path | None = _downloaded(place, Path(folder))
        else:
            content = Path(place) if Path(place).is_file() else None  # Source reports a missing file
        source = Source(name, settings.arguments["dpi"], settings.arguments["password"], content)
        try:
            yield source
        finally:
            source.close()


def count_pages(name: str, place: str, settings: FarmSettings) -> int:
    """Return the number of pages of a document. Raises PageError if it cannot be opened."""
    with opened(name, place, settings) as source:
        return source.pages


def _downloaded(name: str, folder: Path) -> Path:
    try:
        system, path = file_system(name)
        target = folder / "document"
        with system.open_input_stream(path) as stream, target.open("wb") as file:
            shutil.copyfileobj(stream, file, 1 << 20)
    except (OSError, SetupError) as error:
        raise PageError(
            f"{name} cannot be downloaded ({error}): check its name and your credentials",
            code=error.code if isinstance(error, SetupError) else "download_failed",
        ) from error
    return target
