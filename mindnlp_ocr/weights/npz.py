"""Weights from one merged .npz file, with config.json and other files inside or next to it.

Nothing is unpickled. NumPy does not support bfloat16 and stores it as two raw bytes ("|V2"), which are read as bfloat16
here.
"""

import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
from numpy.lib import format as npy
from numpy.typing import NDArray

from mindnlp_ocr.config import ModelConfig
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.weights.check import Stored, check
from mindnlp_ocr.weights.checkpoint import Checkpoint, StoredArrays, StoredWeights
from mindnlp_ocr.weights.digest import fingerprint
from mindnlp_ocr.weights.names import published

FILES = {".json", ".jinja", ".txt"}  # suffixes of files allowed besides arrays
MAX_FILE_BYTES = 64 << 20
DTYPES = {"float32": "F32", "float16": "F16", "|V2": "BF16", "int8": "I8"}  # names in safetensors


class NpzCheckpoint(Checkpoint):
    """A merged .npz file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name

    @property
    def paths(self) -> list[Path]:
        return [self.path]

    @contextmanager
    def files(self) -> Iterator[Path]:
        inside = self._inside()
        if "config.json" not in inside:
            if not (self.path.parent / "config.json").exists():
                raise SetupError(
                    f"{self.path} contains no config.json, and there is none next to it: copy it there",
                    code="checkpoint_incomplete",
                )
            yield self.path.parent
            return
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / self.path.name
            folder.mkdir()
            with _opened(self.path) as archive:
                for name in inside:
                    (folder / name).write_bytes(archive.read(name))
            yield folder

    def _inside(self) -> list[str]:
        with _opened(self.path) as archive:
            members = [member for member in archive.infolist() if not member.filename.endswith(".npy")]
        for member in members:
            name = member.filename
            if Path(name).name != name or Path(name).suffix not in FILES or member.file_size > MAX_FILE_BYTES:
                raise SetupError(
                    f"{self.path} contains {name!r} ({member.file_size} bytes), but besides arrays, only "
                    f"top-level {', '.join(sorted(FILES))} files of up to {MAX_FILE_BYTES >> 20} MB are allowed: "
                    "do not trust it",
                    code="checkpoint_untrusted",
                )
        return [member.filename for member in members]

    @contextmanager
    def weights(self, config: ModelConfig) -> Iterator[StoredWeights]:
        with _opened(self.path) as archive:
            yield NpzWeights(self.path, archive, config)

    def fingerprint(self) -> str:
        beside = [] if "config.json" in self._inside() else sorted(self.path.parent.glob("*.json"))
        return fingerprint([self.path, *beside])


class NpzWeights(StoredArrays):
    """The weights of an open archive, which are decompressed and checked against their CRC on demand.

    Raises:
        SetupError: an array is damaged or contains Python objects, or the weights do not match; see :func:`check`.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile, config: ModelConfig) -> None:
        self._path, self._archive = path, archive
        self._home: dict[str, str] = {}
        found: dict[str, Stored] = {}
        for member in archive.namelist():
            if member.endswith(".npy"):
                name = published(member.removesuffix(".npy"))
                self._home[name] = member
                found[name] = self._header(member)
        self.names, self.dtype = self._home, check(path, found, config)

    def _header(self, member: str) -> Stored:
        with self._member(member) as file:
            version = npy.read_magic(file)
            if version == (1, 0):
                shape, _, dtype = npy.read_array_header_1_0(file)
            elif version == (2, 0):
                shape, _, dtype = npy.read_array_header_2_0(file)
            else:
                raise ValueError(f"format version {version}")
        if dtype.hasobject:
            raise SetupError(
                f"{self._path}: {member} contains Python objects, a pickle that may run code: do not trust this file",
                code="checkpoint_untrusted",
            )
        known = DTYPES.get(dtype.str) or (DTYPES.get(dtype.name) if dtype.isnative else None)
        return Stored(shape, known or dtype.str)

    @contextmanager
    def _member(self, member: str) -> Iterator[BinaryIO]:
        try:
            with self._archive.open(member) as file:
                yield file  # type: ignore[misc]
        except (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise SetupError(
                f"{self._path}: {member} is damaged or not an array ({reason}): copy the file again", code="weights_damaged"
            ) from error

    def array(self, name: str) -> NDArray[Any]:
        with self._member(self._home[name]) as file:
            array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
            file.read()  # the CRC is checked at the end of the file
        return array.view(ml_dtypes.bfloat16) if array.dtype.str == "|V2" else array


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise SetupError(
            f"{path} is truncated or not an .npz archive ({error}): copy it again", code="weights_damaged"
        ) from error
    with archive:
        yield archive
