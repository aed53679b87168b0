"""The interface of checkpoints, independent of their storage: files, weights and fingerprint."""

import abc
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindnlp_ocr.config import ModelConfig
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.weights.quantize import SCALE, Quantized, Source, WeightDtype


class StoredWeights(Mapping[str, Source]):
    """A mapping from published names to stored arrays, read on demand. Names, shapes and dtypes were checked.

    Attributes:
        names: the names of all weights.
        dtype: the dtype of all matrices, or "fp32" if they have different dtypes.
    """

    names: Collection[str]
    dtype: WeightDtype

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class StoredArrays(StoredWeights):
    """Stored weights whose 8-bit matrices consist of two arrays, for the values and the scales."""

    @abc.abstractmethod
    def array(self, name: str) -> NDArray[Any]:
        """Read one array."""

    def __getitem__(self, name: str) -> Source:
        array = self.array(name)
        return Quantized(array.reshape(len(array), -1), self.array(name + SCALE)) if array.dtype == np.int8 else array


class Checkpoint(abc.ABC):
    """
    Attributes:
        name: the name that the user gave.
    """

    name: str

    @property
    def paths(self) -> list[Path]:
        """The folders and files that must not be overwritten."""
        return []

    @abc.abstractmethod
    def files(self) -> AbstractContextManager[Path]:
        """Provide a folder with config.json, tokenizer.json, preprocessor_config.json etc. while the context is open."""

    def config(self, folder: Path) -> ModelConfig:
        """Read the configuration of the network from such a folder."""
        return ModelConfig.from_folder(folder)

    @abc.abstractmethod
    def weights(self, config: ModelConfig) -> AbstractContextManager[StoredWeights]:
        """Provide the weights while the context is open.

        Raises:
            SetupError: the weights are incomplete, damaged, or do not match the configuration.
        """

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Return the SHA-256 of everything on which results depend."""


def open_checkpoint(name: "str | Path | Checkpoint") -> Checkpoint:
    """Open the checkpoint in a Hugging Face folder or a merged .npz file.

    Raises:
        SetupError: there is no checkpoint.
    """
    from mindnlp_ocr.weights.folder import FolderCheckpoint
    from mindnlp_ocr.weights.npz import NpzCheckpoint

    if isinstance(name, Checkpoint):
        return name
    path = Path(name)
    if path.is_dir():
        return FolderCheckpoint(path)
    if path.is_file() and path.suffix == ".npz":
        return NpzCheckpoint(path)
    kind = "is a file" if path.exists() else "does not exist (nothing is downloaded)"
    raise SetupError(
        f"model {path} {kind}: pass a Qwen2-VL folder with config.json and safetensors, or a merged .npz",
        code="checkpoint_missing",
    )
