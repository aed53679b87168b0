"""Files of a farm, by their URI: on a disk that all machines see, or in an object store."""

import os
import posixpath
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from mindnlp_ocr.errors import SetupError

COPY_BYTES = 1 << 20
_PARTIAL = ".partial"


def file_system(uri: str) -> tuple[Any, str]:
    """The pyarrow file system of a URI or a local path, and the path in it.

    Schemes that pyarrow does not know are opened by fsspec.

    Raises:
        SetupError: nothing that is installed opens it.
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
                f"{uri} cannot be opened ({error}): give a path, file:// or s3://, or install its fsspec package"
            ) from error
        system = fs.PyFileSystem(fs.FSSpecHandler(other))
    return system, path


class Store:
    """A folder of a farm. A file in it is complete or not there at all, whatever dies meanwhile.

    Args:
        uri: of the folder, which need not exist.
    """

    def __init__(self, uri: str) -> None:
        from pyarrow import fs

        self.uri = uri
        self._system, self._base = file_system(uri)
        self._local = isinstance(self._system, fs.LocalFileSystem)

    def read(self, name: str) -> bytes:
        """The bytes of a file; FileNotFoundError where it is missing."""
        with self._system.open_input_stream(self._path(name)) as stream:
            return bytes(stream.read())

    def write(self, name: str, content: bytes) -> None:
        """Write a file, or replace it."""
        if not self._local:
            with self._system.open_output_stream(self._path(name)) as stream:  # object stores show whole objects only
                stream.write(content)
            return
        with self._partial(name) as (part, file):
            file.write(content)
            self._commit(part, file, name)

    def copy_in(self, name: str, source: BinaryIO) -> None:
        """Write a file from an open one, from its beginning."""
        source.seek(0)
        if self._local:
            with self._partial(name) as (part, file):
                while piece := source.read(COPY_BYTES):
                    file.write(piece)
                self._commit(part, file, name)
            return
        with self._system.open_output_stream(self._path(name)) as stream:
            while piece := source.read(COPY_BYTES):
                stream.write(piece)

    def names(self, folder: str) -> list[str]:
        """The files that lie directly in a folder, sorted; none where the folder is missing."""
        from pyarrow import fs

        selector = fs.FileSelector(self._path(folder), allow_not_found=True)
        found = self._system.get_file_info(selector)
        names = (posixpath.basename(info.path) for info in found if info.type == fs.FileType.File)
        return sorted(name for name in names if not name.endswith(_PARTIAL))

    def exists(self, name: str) -> bool:
        """Whether a file is there."""
        from pyarrow import fs

        return bool(self._system.get_file_info(self._path(name)).type == fs.FileType.File)

    def remove(self, name: str) -> None:
        """Remove a file; nothing happens where it is missing."""
        try:
            self._system.delete_file(self._path(name))
        except FileNotFoundError:
            return
        except OSError:
            if self.exists(name):
                raise

    def _path(self, name: str) -> str:
        return posixpath.join(self._base, name)

    def _partial(self, name: str) -> "_Partial":
        return _Partial(Path(self._path(name)))

    def _commit(self, part: Path, file: BinaryIO, name: str) -> None:
        file.flush()
        os.fsync(file.fileno())
        part.replace(self._path(name))


class _Partial:
    """An open file beside the one that it will replace; removed where that does not come to pass."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path.with_name(f".{path.name}.{uuid4().hex}{_PARTIAL}")

    def __enter__(self) -> tuple[Path, BinaryIO]:
        self._file: BinaryIO = self._path.open("wb")
        return self._path, self._file

    def __exit__(self, *exc: object) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)
