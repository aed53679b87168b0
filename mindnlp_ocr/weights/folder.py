"""Weights from a Hugging Face folder: one safetensors file, or shards and their index."""

import difflib
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors._safetensors_rust import SafetensorError, safe_open  # mindnlp replaces safetensors.safe_open

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.models.config import Qwen2VLConfig, read_json
from mindnlp_ocr.weights.names import expected_shapes, published
from mindnlp_ocr.weights.quantize import GROUP, Quantized, Source, WeightDtype

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DTYPES: dict[str, WeightDtype] = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}
SCALE = "_scale"  # of an 8-bit weight: NAME is int8, NAME_scale float32


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


class FolderWeights(Mapping[str, Source]):
    """Published name -> array as it is stored, read from disk when asked for. Names, shapes and dtypes are checked first.

    Attributes:
        dtype: what all matrices are stored in; "fp32" where they differ.

    Use as a context manager: the files are memory-mapped, and open until it ends.

    Raises:
        SetupError: a file is missing, truncated or not safetensors; weights are missing, wrong-shaped or of a dtype
            other than float32, float16 and bfloat16, or int8 as tools/convert.py writes it.
    """

    def __init__(self, folder: Path, config: Qwen2VLConfig) -> None:
        self._stack = ExitStack()
        self._home: dict[str, tuple[Any, str]] = {}
        try:
            for path in shards(folder):
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
        faults: list[str] = []
        dtypes: set[WeightDtype] = set()
        for name, shape in expected.items():
            if name not in self._home:
                near = difflib.get_close_matches(name, [n for n in self._home if n not in expected], 1)
                faults.append(f"{name} is missing" + (f" (did {near[0]} mean it?)" if near else ""))
                continue
            file, stored = self._home[name]
            found = file.get_slice(stored)
            if tuple(found.get_shape()) != shape:
                faults.append(f"{name} is {tuple(found.get_shape())}, config.json makes it {shape}")
            elif found.get_dtype() == "I8" and len(shape) > 1:
                dtypes.add("int8")
                faults += self._scale_faults(name, shape)
            elif found.get_dtype() not in DTYPES:
                faults.append(f"{name} is stored as {found.get_dtype()}, not one of {', '.join(sorted(DTYPES))}")
            elif len(shape) > 1:
                dtypes.add(DTYPES[found.get_dtype()])
        self.dtype: WeightDtype = dtypes.pop() if len(dtypes) == 1 else "fp32"
        if faults:
            more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
            raise SetupError(f"{folder}: the weights do not fit config.json: {'; '.join(faults[:5])}{more}")

    def _scale_faults(self, name: str, shape: tuple[int, ...]) -> Iterator[str]:
        scales = (shape[0], -(-math.prod(shape[1:]) // GROUP))
        if name + SCALE not in self._home:
            yield f"{name} is stored as I8, and {name + SCALE} is missing"
            return
        file, stored = self._home[name + SCALE]
        found = file.get_slice(stored)
        if (tuple(found.get_shape()), found.get_dtype()) != (scales, "F32"):
            yield f"{name + SCALE} is {found.get_dtype()} {tuple(found.get_shape())}, not F32 {scales}"

    def __getitem__(self, name: str) -> Source:
        array = self._array(name)
        if array.dtype == np.int8:
            return Quantized(array.reshape(len(array), -1), self._array(name + SCALE))
        return array

    def _array(self, name: str) -> NDArray[Any]:
        file, stored = self._home[name]
        array: NDArray[Any] = file.get_tensor(stored)
        # MindSpore replaces NumPy's bfloat16 by its own, which NumPy cannot cast to the one of ml_dtypes.
        return array.view(ml_dtypes.bfloat16) if str(array.dtype) == "bfloat16" else array

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


def shards(folder: Path) -> list[Path]:
    """The weight files of a checkpoint. Errors as :class:`FolderWeights`."""
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
