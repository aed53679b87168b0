"""Weights from a Hugging Face folder: one safetensors file, or shards and their index."""

import difflib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.models.config import Qwen2VLConfig, read_json
from mindnlp_ocr.weights.names import expected_shapes, published

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DTYPES = {"F32", "F16", "BF16"}
assert ml_dtypes.bfloat16  # importing it is what teaches NumPy, and so safetensors, bfloat16


def checked_folder(name: str | Path) -> Path:
    """The folder of a checkpoint.

    Raises:
        SetupError: it is none.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.suffix == ".npz":
        raise SetupError(f"model {folder}: merged .npz files are not read by this release: give a Hugging Face folder")
    kind = "is a file" if folder.exists() else "does not exist (nothing is downloaded)"
    raise SetupError(f"model {folder} {kind}: give a Qwen2-VL folder with config.json and safetensors")


class FolderWeights(Mapping[str, NDArray[np.float32]]):
    """Published name -> float32 array, read from disk when asked for. Names, shapes and dtypes are checked first.

    Use as a context manager: the files are memory-mapped, and open until it ends.

    Raises:
        SetupError: a file is missing, truncated or not safetensors; weights are missing, wrong-shaped or of a dtype
            other than float32, float16 and bfloat16.
    """

    def __init__(self, folder: Path, config: Qwen2VLConfig) -> None:
        self._stack = ExitStack()
        self._home: dict[str, tuple[Any, str]] = {}
        try:
            for path in _shards(folder):
                file = self._open(path)
                self._home.update({published(name): (file, name) for name in file.keys()})  # noqa: SIM118
            self._check(folder, config)
        except BaseException:
            self._stack.close()
            raise

    def _open(self, path: Path) -> Any:
        try:
            return self._stack.enter_context(safe_open(path, framework="np"))
        except FileNotFoundError as error:
            raise SetupError(f"{path} is missing: the checkpoint was copied in part, copy it again") from error
        except (OSError, SafetensorError) as error:
            raise SetupError(f"{path} is truncated or not safetensors ({error}): copy it again") from error

    def _check(self, folder: Path, config: Qwen2VLConfig) -> None:
        expected = expected_shapes(config)
        faults = []
        for name, shape in expected.items():
            if name not in self._home:
                near = difflib.get_close_matches(name, [n for n in self._home if n not in expected], 1)
                faults.append(f"{name} is missing" + (f" (did {near[0]} mean it?)" if near else ""))
                continue
            file, stored = self._home[name]
            found = file.get_slice(stored)
            if tuple(found.get_shape()) != shape:
                faults.append(f"{name} is {tuple(found.get_shape())}, config.json makes it {shape}")
            elif found.get_dtype() not in DTYPES:
                faults.append(f"{name} is stored as {found.get_dtype()}, not one of {', '.join(sorted(DTYPES))}")
        if faults:
            more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
            raise SetupError(f"{folder}: the weights do not fit config.json: {'; '.join(faults[:5])}{more}")

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        file, stored = self._home[name]
        array: NDArray[np.float32] = file.get_tensor(stored).astype(np.float32, copy=False)
        return array

    def __contains__(self, name: object) -> bool:
        return name in self._home

    def __iter__(self) -> Iterator[str]:
        return iter(self._home)

    def __len__(self) -> int:
        return len(self._home)

    def __enter__(self) -> "FolderWeights":
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


def _shards(folder: Path) -> list[Path]:
    if not (folder / INDEX).exists():
        if (folder / SINGLE).exists():
            return [folder / SINGLE]
        raise SetupError(f"{folder} holds neither {SINGLE} nor {INDEX}: give a complete Qwen2-VL folder")
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise SetupError(f"{folder / INDEX} has no weight_map: copy it again")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or name in ("", ".."):
            raise SetupError(f"{folder / INDEX} names {name!r}, a file outside its folder: do not trust this checkpoint")
    return [folder / name for name in names]
