"""A checkpoint wherever it is stored: its files, its weights, and what tells it from others."""

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
    """Published name -> array as it is stored, read when asked for. Names, shapes and dtypes were checked.

    Attributes:
        names: of all that there are.
        dtype: what all matrices are stored in; "fp32" where they differ.
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
    """Of which those in 8 bits are stored as two arrays."""

    @abc.abstractmethod
    def array(self, name: str) -> NDArray[Any]:
        """One of them."""

    def __getitem__(self, name: str) -> Source:
        array = self.array(name)
        return Quantized(array.reshape(len(array), -1), self.array(name + SCALE)) if array.dtype == np.int8 else array


class Checkpoint(abc.ABC):
    """
    Attributes:
        name: what a user calls it.
    """

    name: str

    @property
    def paths(self) -> list[Path]:
        """The folder or the file that must not be written over."""
        return []

    @abc.abstractmethod
    def files(self) -> AbstractContextManager[Path]:
        """A folder with config.json, tokenizer.json, preprocessor_config.json and the like, for as long as it is open."""

    def config(self, folder: Path) -> ModelConfig:
        """Of the network that the weights are for, from such a folder."""
        return ModelConfig.from_folder(folder)

    @abc.abstractmethod
    def weights(self, config: ModelConfig) -> AbstractContextManager[StoredWeights]:
        """The weights, for as long as they are open.

        Raises:
            SetupError: they are incomplete, damaged, or do not fit the configuration.
        """

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 over all that reading depends on."""


def open_checkpoint(name: "str | Path | Checkpoint") -> Checkpoint:
    """The checkpoint of a Hugging Face folder or a merged .npz file.

    Raises:
        SetupError: there is none.
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
    raise SetupError(f"model {path} {kind}: give a Qwen2-VL folder with config.json and safetensors, or a merged .npz")
