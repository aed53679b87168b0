"""The cache on disk: one safetensors file for each prefix, verified with a checksum when it is read."""

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
LEFTOVER_SECONDS = 3600.0  # no save takes this long, so an older partial file is from a process that died


@dataclass(frozen=True, eq=False)
class StoredPrefix:
    """A prefix with its keys and values.

    Attributes:
        key: the sequence, with at least one token.
        keys: [layers, kv_heads, tokens, head_dim], float32, float16 or bfloat16.
        values: same shape and dtype as ``keys``.

    Raises:
        ValueError: a shape or dtype is wrong.
    """

    key: PrefixKey
    keys: NDArray[Any]
    values: NDArray[Any]

    def __post_init__(self) -> None:
        shape, dtype = self.keys.shape, self.keys.dtype
        if (self.values.shape, self.values.dtype) != (shape, dtype):
            raise ValueError(
                f"keys are {dtype} {shape}, but values are {self.values.dtype} {self.values.shape}: use the same for both"
            )
        if len(shape) != 4 or shape[2] != len(self.key) or 0 in shape:
            raise ValueError(f"keys are {shape}: use [layers, kv_heads, {len(self.key)} tokens, head_dim]")
        if dtype not in DTYPES:
            raise ValueError(f"keys are {dtype}: use float32, float16 or bfloat16")


def save_prefix(folder: Path, entry: StoredPrefix) -> Path:
    """Write a prefix atomically. Save the least recently used prefix first, because files are loaded in the order of saving.

    Returns:
        The path of the file, which is named after the SHA-256 of the key.

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
        handle, name = tempfile.mkstemp(
            PARTIAL, path.name, folder
        )  # readable only by its owner, as it contains what was read
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
        raise SetupError(
            f"{folder} cannot be written ({error}): make room there, or name another folder", code="cache_unwritable"
        ) from error
    return path


def prune(folder: Path, max_bytes: int) -> None:
    """Remove the oldest prefixes until the others take at most ``max_bytes``."""
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
    """Read the prefixes that match this model, one at a time, in the order in which they were saved.

    Files that do not match or are damaged, and folders that cannot be read, are skipped with a RuntimeWarning that gives the
    reason.

    Args:
        folder: folder in which ``save_prefix`` wrote; it need not exist.
        base: the base of every key.
        slot_shape: shape of one slot, [layers, kv_heads, max_length, head_dim]; a prefix has up to max_length tokens.
        dtype: dtype of the slots.
        newest: read only this number of files, the newest ones.
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
        except Exception as error:  # one bad file must not prevent reading the others
            warnings.warn(f"{path} {_reason(error)}: ignored", RuntimeWarning, stacklevel=2)
        else:
            yield entry


class _UnfitError(Exception):
    """An intact file does not match this model."""


def _own_bfloat16(array: NDArray[Any]) -> NDArray[Any]:
    """View bfloat16 arrays as ``ml_dtypes.bfloat16``: MindSpore replaces that type by its own with the same bits."""
    return array.view(ml_dtypes.bfloat16) if array.dtype.name == "bfloat16" else array


def _in_order(folder: Path) -> list[Path]:
    """Return the files of prefixes, the oldest first."""
    found = []
    for path in folder.iterdir():
        if path.suffix == SUFFIX:
            with suppress(OSError):  # another process replaced or removed it
                found.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(found)]


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, _UnfitError) else f"is damaged or not a cached prefix ({error})"


def _load(path: Path, base: str, slot_shape: tuple[int, int, int, int], dtype: np.dtype[Any]) -> StoredPrefix:
    _check_padding(path)
    with safe_open(path, framework="np") as file:
        metadata = dict(file.metadata() or {})
        if metadata.get("format") != FORMAT:
            raise ValueError("it was not written by mindnlp_ocr")
        if metadata["version"] != VERSION:
            raise _UnfitError(f"has format version {metadata['version']!r}, but this release reads {VERSION!r}")
        if metadata["base"] != base:
            raise _UnfitError(
                f"belongs to another checkpoint, dtype or adapter ({metadata['base']!r}, but this is {base!r})"
            )
        if sorted(file.keys()) != sorted(TENSORS):
            raise ValueError(f"it contains {', '.join(file.keys())}")
        shape = tuple(file.get_slice("keys").get_shape())
        layers, kv_heads, max_length, head_dim = slot_shape
        if len(shape) != 4 or shape[2] > max_length or shape != (layers, kv_heads, shape[2], head_dim):
            raise _UnfitError(f"contains keys of shape {list(shape)}, but a slot has {list(slot_shape)}")
        tensors = {name: _own_bfloat16(file.get_tensor(name)) for name in TENSORS}
    if metadata.pop("sha256", None) != _checksum(metadata, tensors):
        raise ValueError("its bytes are not those that were written")
    if tensors["keys"].dtype != dtype:
        raise _UnfitError(f"contains {tensors['keys'].dtype}, but the slots are {dtype}")
    if tensors["token_ids"].dtype != np.int32:
        raise ValueError(f"its token ids are {tensors['token_ids'].dtype}")
    images = tuple(ImageSpan(int(start), int(n), bytes.fromhex(sha)) for start, n, sha in json.loads(metadata["images"]))
    return StoredPrefix(PrefixKey(base, tensors["token_ids"], images), tensors["keys"], tensors["values"])


def _check_padding(path: Path) -> None:
    """Check that only spaces follow the JSON header; the JSON parser would silently accept other blanks."""
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
