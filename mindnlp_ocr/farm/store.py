"""Storage of a farm's files: on a disk shared by all machines, or in an object store."""

import os
import posixpath
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from mindnlp_ocr.errors import SetupError

COPY_BYTES = 1 << 20
PARTIAL = "_farm/partial"  # incomplete local files; a killed process leaves its file there


def file_system(uri: str) -> tuple[Any, str]:
    """Return the pyarrow file system of a URI or a local path, and the path in it.

    Schemes that pyarrow does not support are opened with fsspec.

    Raises:
        SetupError: neither pyarrow nor an installed fsspec package supports the scheme.
    """
    from pyarrow import fs

    if "://" not in uri:
        return fs.LocalFileSystem(), str(Path(uri).absolute())
    try:
        system, path = fs.FileSystem.from_uri(uri)
    except (OSError, ValueError) as error:
        try:
            import fsspec

            other, path = fsspec.core.url_to_fs(uri)
        except (ImportError, OSError, ValueError):
            raise SetupError(
                f"{uri} cannot be opened ({error}): pass a path, file:// or s3://, or install its fsspec package",
                code="address_unsupported",
            ) from error
        system = fs.PyFileSystem(fs.FSSpecHandler(other))
    return system, path


class Store:
    """The output folder of a farm. Files are written atomically: they are complete or do not exist.

    Args:
        uri: URI or path of the folder, which need not exist.
    """

    def __init__(self, uri: str) -> None:
        from pyarrow import fs

        self.uri = uri
        self._system, self._base = file_system(uri)
        self._local = isinstance(self._system, fs.LocalFileSystem)

    def read(self, name: str) -> bytes:
        """Return the content of a file. Raises FileNotFoundError if it does not exist."""
        with self._system.open_input_stream(self._path(name)) as stream:
            return bytes(stream.read())

    def write(self, name: str, content: bytes) -> None:
        """Write or replace a file."""
        if not self._local:
            with self._system.open_output_stream(self._path(name)) as stream:  # objects appear only when they are complete
                stream.write(content)
            return
        self._copy(name, [content])

    def copy_in(self, name: str, source: BinaryIO) -> None:
        """Copy an open file, from its beginning, into the folder."""
        source.seek(0)
        pieces = iter(lambda: source.read(COPY_BYTES), b"")
        if self._local:
            self._copy(name, pieces)
            return
        with self._system.open_output_stream(self._path(name)) as stream:
            for piece in pieces:
                stream.write(piece)

    def local(self, name: str) -> Path | None:
        """Return the local path of a file; None in an object store."""
        return Path(self._path(name)) if self._local else None

    def names(self, folder: str) -> list[str]:
        """Return the sorted names of the files directly in a folder; none if the folder does not exist."""
        from pyarrow import fs

        selector = fs.FileSelector(self._path(folder), allow_not_found=True)
        found = self._system.get_file_info(selector)
        return sorted(posixpath.basename(info.path) for info in found if info.type == fs.FileType.File)

    def exists(self, name: str) -> bool:
        """Return whether a file exists."""
        from pyarrow import fs

        return bool(self._system.get_file_info(self._path(name)).type == fs.FileType.File)

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        try:
            self._system.delete_file(self._path(name))
        except FileNotFoundError:
            return
        except OSError:
            if self.exists(name):
                raise

    def _path(self, name: str) -> str:
        return posixpath.join(self._base, name)

    def _copy(self, name: str, pieces: Iterable[bytes]) -> None:
        part, path = Path(self._path(f"{PARTIAL}/{uuid4().hex}")), Path(self._path(name))
        for folder in (part.parent, path.parent):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def clean(self) -> None:
        """Remove incomplete files of killed processes. No other process may write at the same time."""
        for name in self.names(PARTIAL):
            self.remove(f"{PARTIAL}/{name}")
