"""Cached prefixes on disk: one safetensors file each, checked to the last byte when it is read."""

import hashlib
import json
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors._safetensors_rust import SafetensorError, safe_open  # mindnlp replaces safetensors.safe_open
from safetensors.numpy import save_file

from mindnlp_ocr.cache.keys import ImageSpan, PrefixKey
from mindnlp_ocr.errors import SetupError

FORMAT, VERSION = "mindnlp_ocr.prefix", "1"
DTYPES = tuple(np.dtype(dtype) for dtype in (np.float32, np.float16, ml_dtypes.bfloat16))
TENSORS = ("token_ids", "keys", "values")
SUFFIX, PARTIAL = ".safetensors", ".partial"
LEFTOVER_SECONDS = 3600.0  # a partial file so old is of a process that died: no save takes so long


@dataclass(frozen=True, eq=False)
class StoredPrefix:
    """A prefix with its keys and values.

    Attributes:
        key: the sequence; one token at least.
        keys: [layers, kv_heads, tokens, head_dim], float32, float16 or bfloat16.
        values: the same.

    Raises:
        ValueError: shapes or dtypes that are not these.
    """

    key: PrefixKey
    keys: NDArray[Any]
    values: NDArray[Any]

    def __post_init__(self) -> None:
        shape, dtype = self.keys.shape, self.keys.dtype
        if (self.values.shape, self.values.dtype) != (shape, dtype):
            raise ValueError(f"keys are {dtype} {shape}, values {self.values.dtype} {self.values.shape}: give one form")
        if len(shape) != 4 or shape[2] != len(self.key) or 0 in shape:
            raise ValueError(f"keys are {shape}: give [layers, kv_heads, {len(self.key)} tokens, head_dim]")
        if dtype not in DTYPES:
            raise ValueError(f"keys are {dtype}: give float32, float16 or bfloat16")


def save_prefix(folder: Path, entry: StoredPrefix) -> Path:
    """Write a prefix, whole or not at all. Save the least recently used first: files are read in the order of their saving.

    Returns:
        The file, named by the SHA-256 of the key.

    Raises:
        SetupError: the folder cannot be written.
    """
    path = folder / (entry.key.digest().hex() + SUFFIX)
    tensors = {"token_ids": entry.key.token_ids, "keys": entry.keys, "values": entry.values}
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    images = [[image.start, image.tokens, image.digest.hex()] for image in entry.key.images]
    metadata = {"format": FORMAT, "version": VERSION, "base": entry.key.base, "images": json.dumps(images)}
    metadata["sha256"] = _checksum(metadata, tensors)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        handle, name = tempfile.mkstemp(PARTIAL, path.name, folder)  # for its owner's eyes only: it holds what was read
        os.close(handle)
        partial = Path(name)
        try:
            save_file(tensors, partial, metadata)
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            now = time.time_ns()  # the file system's own clock may tick too slowly to tell two files apart
            os.utime(partial, ns=(now, now))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise SetupError(f"{folder} cannot be written ({error}): make room there, or name another folder") from error
    return path


def prune(folder: Path, max_bytes: int) -> None:
    """Remove the prefixes saved longest ago until the others take ``max_bytes`` at most."""
    if not folder.is_dir():
        return
    for path in reversed(_in_order(folder)):
        with suppress(FileNotFoundError):  # another process removed it
            max_bytes -= path.stat().st_size
            if max_bytes < 0:
                path.unlink()


def load_prefixes(
    folder: Path, base: str, slot_shape: tuple[int, int, int, int], dtype: np.dtype[Any], newest: int | None = None
) -> Iterator[StoredPrefix]:
    """Read the prefixes that fit this model, one at a time, the one saved first first.

    A file that does not fit or is damaged, and a folder that cannot be read, is skipped with a RuntimeWarning that names it
    and says why.

    Args:
        folder: where ``save_prefix`` wrote; one that does not exist holds none.
        base: the base of every key.
        slot_shape: of one slot, [layers, kv_heads, max_length, head_dim]; a prefix has up to max_length tokens.
        dtype: of the slots.
        newest: look at the last so many files alone.
    """
    try:
        paths = _in_order(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        warnings.warn(f"{folder} cannot be read ({error.strerror}): ignored", RuntimeWarning, stacklevel=2)
        return
    for path in paths[0 if newest is None else max(0, len(paths) - newest) :]:
        try:
            entry = _load(path, base, slot_shape, np.dtype(dtype))
        except Exception as error:  # whatever is in a file, it must not keep the others from being read
            warnings.warn(f"{path} {_reason(error)}: ignored", RuntimeWarning, stacklevel=2)
        else:
            yield entry


class _UnfitError(Exception):
    """Why a sound file is of no use here."""


def _own_bfloat16(array: NDArray[Any]) -> NDArray[Any]:
    """MindSpore, once imported, puts a bfloat16 of its own in the place of ``ml_dtypes``'s, with the same bits."""
    return array.view(ml_dtypes.bfloat16) if array.dtype.name == "bfloat16" else array


def _in_order(folder: Path) -> list[Path]:
    """The files of prefixes, the one saved first first."""
    found = []
    for path in folder.iterdir():
        if path.suffix == SUFFIX:
            with suppress(OSError):  # another process replaced or removed it
                found.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(found)]


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, _UnfitError) else f"is damaged or no cached prefix ({error})"


def _load(path: Path, base: str, slot_shape: tuple[int, int, int, int], dtype: np.dtype[Any]) -> StoredPrefix:
    _check_padding(path)
    with safe_open(path, framework="np") as file:
        metadata = dict(file.metadata() or {})
        if metadata.get("format") != FORMAT:
            raise ValueError("it was not written by mindnlp_ocr")
        if metadata["version"] != VERSION:
            raise _UnfitError(f"has version {metadata['version']!r} of the format, this release reads {VERSION!r}")
        if metadata["base"] != base:
            raise _UnfitError(f"is for another checkpoint, dtype or adapter ({metadata['base']!r}, this is {base!r})")
        if sorted(file.keys()) != sorted(TENSORS):
            raise ValueError(f"it holds {', '.join(file.keys())}")
        shape = tuple(file.get_slice("keys").get_shape())
        layers, kv_heads, max_length, head_dim = slot_shape
        if len(shape) != 4 or shape[2] > max_length or shape != (layers, kv_heads, shape[2], head_dim):
            raise _UnfitError(f"holds keys of {list(shape)}, a slot holds {list(slot_shape)}")
        tensors = {name: _own_bfloat16(file.get_tensor(name)) for name in TENSORS}
    if metadata.pop("sha256", None) != _checksum(metadata, tensors):
        raise ValueError("its bytes are not those that were written")
    if tensors["keys"].dtype != dtype:
        raise _UnfitError(f"holds {tensors['keys'].dtype}, the slots are {dtype}")
    if tensors["token_ids"].dtype != np.int32:
        raise ValueError(f"its token ids are {tensors['token_ids'].dtype}")
    images = tuple(ImageSpan(int(start), int(n), bytes.fromhex(sha)) for start, n, sha in json.loads(metadata["images"]))
    return StoredPrefix(PrefixKey(base, tensors["token_ids"], images), tensors["keys"], tensors["values"])


def _check_padding(path: Path) -> None:
    """The header of a safetensors file is JSON and spaces; JSON would read other blanks there without a word."""
    with path.open("rb") as file:
        header = file.read(min(int.from_bytes(file.read(8), "little"), path.stat().st_size))
    if not header.rstrip(b" ").endswith(b"}"):
        raise ValueError("its header is cut off or changed")


def _checksum(metadata: dict[str, str], tensors: dict[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name in TENSORS:
        array = tensors[name]
        digest.update(f" {name} {array.dtype} {array.shape} ".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(f"*{SUFFIX}*{PARTIAL}"):
        with suppress(FileNotFoundError):  # another process was faster
            if time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
                path.unlink()
