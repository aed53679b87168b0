"""Weights from a Hugging Face folder: one safetensors file, or shards and their index."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
from numpy.typing import NDArray
from safetensors._safetensors_rust import SafetensorError, safe_open  # mindnlp replaces safetensors.safe_open

from mindnlp_ocr.config import ModelConfig, read_json
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.weights.check import Stored, check
from mindnlp_ocr.weights.checkpoint import Checkpoint, StoredArrays, StoredWeights
from mindnlp_ocr.weights.digest import fingerprint
from mindnlp_ocr.weights.names import published

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


class FolderCheckpoint(Checkpoint):
    """A Hugging Face folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name

    @property
    def paths(self) -> list[Path]:
        return [self.folder]

    @contextmanager
    def files(self) -> Iterator[Path]:
        yield self.folder

    @contextmanager
    def weights(self, config: ModelConfig) -> Iterator[StoredWeights]:
        yield FolderWeights(self.folder, config)

    def fingerprint(self) -> str:
        return fingerprint(sorted(path for pattern in ("*.json", "*.safetensors") for path in self.folder.glob(pattern)))


class FolderWeights(StoredArrays):
    """The weights of a folder. Files are reopened for every weight, since pages of a mapped file count as memory in use.

    Raises:
        SetupError: a file is missing, truncated or not safetensors, or the weights do not match; see :func:`check`.
    """

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        self._home: dict[str, tuple[Path, str]] = {}
        found: dict[str, Stored] = {}
        for path in shards(folder):
            with opened(path) as file:
                for name in file.keys():  # noqa: SIM118
                    slices = file.get_slice(name)
                    self._home[published(name)] = path, name
                    found[published(name)] = Stored(tuple(slices.get_shape()), slices.get_dtype())
        self.names, self.dtype = self._home, check(folder, found, config)

    def array(self, name: str) -> NDArray[Any]:
        path, stored = self._home[name]
        with opened(path) as file:
            return own_bfloat16(file.get_tensor(stored))


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file. For errors, see :class:`FolderWeights`."""
    try:
        with safe_open(path, framework="np") as file:
            yield file
    except FileNotFoundError as error:
        raise SetupError(f"{path} is missing: copy the whole checkpoint again", code="checkpoint_incomplete") from error
    except (OSError, SafetensorError) as error:
        raise SetupError(
            f"{path} is truncated or not safetensors ({error}): copy it again", code="weights_damaged"
        ) from error


def own_bfloat16(array: NDArray[Any]) -> NDArray[Any]:
    """View bfloat16 arrays as ml_dtypes.bfloat16: NumPy cannot cast between it and MindSpore's own type."""
    return array.view(ml_dtypes.bfloat16) if array.dtype.name == "bfloat16" else array


def shards(folder: Path) -> list[Path]:
    """Return the weight files of a checkpoint. For errors, see :class:`FolderWeights`."""
    if not (folder / INDEX).exists():
        if (folder / SINGLE).exists():
            return [folder / SINGLE]
        raise SetupError(
            f"{folder} contains neither {SINGLE} nor {INDEX}: pass a complete Qwen2-VL folder", code="checkpoint_incomplete"
        )
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise SetupError(f"{folder / INDEX} has no weight_map: copy it again", code="weights_damaged")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or name in ("", ".."):
            raise SetupError(
                f"{folder / INDEX} names {name!r}, a file outside its folder: do not trust this checkpoint",
                code="checkpoint_untrusted",
            )
    return [folder / name for name in names]
