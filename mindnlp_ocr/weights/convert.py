"""Conversion of checkpoints to a Hugging Face folder or an .npz file, to another dtype, or with a merged adapter."""

import json
import math
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from mindnlp_ocr import __version__
from mindnlp_ocr.config import ModelConfig, read_json
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.weights.checkpoint import Checkpoint, StoredWeights
from mindnlp_ocr.weights.digest import sha256
from mindnlp_ocr.weights.folder import INDEX, SINGLE
from mindnlp_ocr.weights.names import expected_shapes
from mindnlp_ocr.weights.npz import FILES
from mindnlp_ocr.weights.quantize import GROUP, SCALE, Quantized, WeightDtype, cast, quantize

QUANTIZATION = {"quant_method": "mindnlp_ocr", "bits": 8, "group_size": GROUP}  # makes other programs reject the checkpoint
TORCH_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
SHARD_BYTES = 2 << 30
SUMS = "SHA256SUMS"  # in the format of sha256sum

Target = Literal["stored", "fp32", "fp16", "bf16", "int8"]
Tensors = dict[str, NDArray[Any]]


def convert(source: Checkpoint, target: Path, dtype: Target = "stored", force: bool = False) -> None:
    """Write a checkpoint to a folder, or to a file if the target ends in .npz, with SHA-256 sums in it or next to it.

    The target appears when it is complete. An interrupted run leaves TARGET.part, from which the same command continues.

    Args:
        dtype: dtype of matrices; "stored" keeps it. "int8" writes NAME as int8 and NAME_scale as float32; vectors are kept.

    Raises:
        SetupError: the source is incomplete or already has 8-bit weights, a weight exceeds the range of the dtype, or the
            target exists.
    """
    if target.exists() and any(path.resolve() == target.resolve() for path in source.paths):
        raise SetupError(f"{target} is the checkpoint itself: name another target", code="target_is_source")
    if target.exists() and not force:
        raise SetupError(f"{target} exists: name another target, or add --force", code="target_exists")
    if target.is_dir() and not (target / "config.json").exists() and any(target.iterdir()):
        raise SetupError(
            f"{target} is a folder without a checkpoint, which is not replaced: name another target",
            code="target_not_checkpoint",
        )
    with source.files() as files:
        config = source.config(files)
    with source.weights(config) as weights:
        if weights.dtype == dtype == "int8":
            raise SetupError(f"{source.name} is already in 8 bits: use it as it is", code="already_int8")
        texts = texts_of(source, weights.dtype if dtype == "stored" else dtype)
        plan = {"source": source.fingerprint(), "dtype": dtype, "version": __version__}
        (_write_npz if target.suffix == ".npz" else _write_folder)(_Stage(target, plan), weights, dtype, config, texts)


def texts_of(source: Checkpoint, dtype: WeightDtype) -> dict[str, bytes]:
    """Return the other files of a checkpoint by name, with config.json for matrices of the given dtype."""
    with source.files() as files:
        texts = {path.name: path.read_bytes() for path in sorted(files.iterdir()) if _is_text(path)}
        raw, config = read_json(files / "config.json"), source.config(files)
    raw.pop("quantization_config", None)
    if not config.tie_word_embeddings:  # an adapter may untie the head
        raw["tie_word_embeddings"] = False
    if dtype == "int8":
        raw["quantization_config"] = QUANTIZATION
    else:
        raw |= {key: TORCH_DTYPES[dtype] for key in ("torch_dtype", "dtype") if key in raw}
    return {**texts, "config.json": _json(raw)}


class _Stage:
    """The folder TARGET.part, with the complete pieces of the target so far."""

    def __init__(self, target: Path, plan: dict[str, str]) -> None:
        self.target = target
        self.folder = target.with_name(target.name + ".part")
        self._plan = self.folder / "plan"
        if self.folder.exists() and not (self._plan.exists() and self._plan.read_bytes() == _json(plan)):
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._plan.write_bytes(_json(plan))

    def piece(self, name: str, write: Callable[[Path], object]) -> Path:
        path, partial = self.folder / name, self.folder / f"{name}.tmp"
        if not path.exists():
            write(partial)
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.replace(path)
        return path

    def become(self, path: Path) -> None:
        """Rename a written file or folder to the target."""
        self._plan.unlink()
        if self.target.is_dir():
            shutil.rmtree(self.target)
        elif path.is_dir():
            self.target.unlink(missing_ok=True)
        path.replace(self.target)
        shutil.rmtree(self.folder, ignore_errors=True)


def _write_folder(
    stage: _Stage, weights: StoredWeights, dtype: Target, config: ModelConfig, texts: dict[str, bytes]
) -> None:
    shapes, shards = expected_shapes(config), _shards(config)
    of = f"of-{len(shards):05}.safetensors"
    files = [SINGLE] if len(shards) == 1 else [f"model-{number:05}-{of}" for number in range(1, len(shards) + 1)]
    for file, shard in zip(
        tqdm(files, unit="shard", desc=f"writing {stage.target.name}", disable=None), shards, strict=True
    ):

        def write(path: Path, shard: Sequence[str] = shard) -> None:
            tensors = {key: x for name in shard for key, x in _tensors(weights, name, shapes[name], dtype)}
            save_file(tensors, path, {"format": "pt"})

        stage.piece(file, write)
    if len(shards) > 1:
        home: dict[str, str] = {}
        for file in files:
            with safe_open(stage.folder / file, framework="np") as opened:
                home |= dict.fromkeys(opened.keys(), file)
        size = sum((stage.folder / file).stat().st_size for file in files)
        texts = {**texts, INDEX: _json({"metadata": {"total_size": size}, "weight_map": home})}
    for name, text in texts.items():
        (stage.folder / name).write_bytes(text)
    sums = [f"{sha256(stage.folder / name)}  {name}\n" for name in sorted([*files, *texts])]
    (stage.folder / SUMS).write_text("".join(sums), encoding="utf-8")
    stage.become(stage.folder)


def _write_npz(stage: _Stage, weights: StoredWeights, dtype: Target, config: ModelConfig, texts: dict[str, bytes]) -> None:
    shapes = expected_shapes(config)
    pieces: list[Path] = []
    for name in tqdm(shapes, unit="weight", desc=f"writing {stage.target.name}", disable=None):

        def write(path: Path, name: str = name) -> None:
            with path.open("wb") as file:
                np.savez(file, **{key: _raw(x) for key, x in _tensors(weights, name, shapes[name], dtype)})

        pieces.append(stage.piece(f"{len(pieces):05}.npz", write))
    whole = stage.folder / "whole"
    with zipfile.ZipFile(whole, "w") as archive:  # not compressed: weights hardly shrink
        for name, text in texts.items():
            archive.writestr(zipfile.ZipInfo(name), text)
        for piece in pieces:
            with zipfile.ZipFile(piece) as part:
                for member in part.infolist():
                    with (
                        part.open(member) as file,
                        archive.open(zipfile.ZipInfo(member.filename), "w", force_zip64=True) as to,
                    ):
                        shutil.copyfileobj(file, to, 1 << 22)
    sums = stage.target.with_name(stage.target.name + ".sha256")
    sums.write_text(f"{sha256(whole)}  {stage.target.name}\n", encoding="utf-8")
    stage.become(whole)


def _shards(config: ModelConfig) -> list[list[str]]:
    """Divide the names of weights into files of up to SHARD_BYTES in float32."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, shape in expected_shapes(config).items():
        size += 4 * math.prod(shape)
        if size > SHARD_BYTES and shards[-1]:
            shards.append([])
            size = 4 * math.prod(shape)
        shards[-1].append(name)
    return shards


def _tensors(weights: StoredWeights, name: str, shape: tuple[int, ...], dtype: Target) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the arrays of a weight by name: the weight, and its scales if it is in 8 bits."""
    weight = weights[name]
    if dtype == "int8" and len(shape) > 1:
        weight = quantize(cast(weight, "fp32").reshape(shape[0], -1))
    elif dtype != "stored" and dtype != "int8":
        weight = cast(weight, dtype)
    if isinstance(weight, Quantized):
        yield name, weight.q.reshape(shape)
        yield name + SCALE, weight.scales
    else:
        yield name, weight.reshape(shape)


def _is_text(path: Path) -> bool:
    return path.is_file() and path.suffix in FILES and path.name not in (INDEX, "config.json", "adapter_config.json")


def _raw(array: NDArray[Any]) -> NDArray[Any]:
    """View bfloat16 as raw bytes, because NumPy's file format does not support it."""
    return array.view("V2") if array.dtype == ml_dtypes.bfloat16 else array


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
