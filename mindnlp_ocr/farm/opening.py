"""Documents of a farm, opened: from a disk, or downloaded for as long as they are read."""

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
    """An open document.

    Args:
        name: how messages and results call it.
        place: an absolute path or a URI.

    Raises:
        PageError: it cannot be opened, or not be downloaded.
    """
    with tempfile.TemporaryDirectory(prefix="mindnlp-ocr-") as folder:
        if "://" in place and not place.startswith(("http://", "https://")):
            content: Path | None = _downloaded(place, Path(folder))
        else:
            content = Path(place) if Path(place).is_file() else None  # where it is missing, Source says what is wrong
        source = Source(name, settings.arguments["dpi"], settings.arguments["password"], content)
        try:
            yield source
        finally:
            source.close()


def count_pages(name: str, place: str, settings: FarmSettings) -> int:
    """How many pages a document has; PageError where it cannot be opened."""
    with opened(name, place, settings) as source:
        return source.pages


def _downloaded(name: str, folder: Path) -> Path:
    try:
        system, path = file_system(name)
        target = folder / "document"
        with system.open_input_stream(path) as stream, target.open("wb") as file:
            shutil.copyfileobj(stream, file, 1 << 20)
    except (OSError, SetupError) as error:
        raise PageError(f"{name} cannot be downloaded ({error}): check its name and your credentials") from error
    return target
