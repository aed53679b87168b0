"""A checkpoint in 8 bits, as a folder of its own."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.models.config import Qwen2VLConfig, read_json
from mindnlp_ocr.weights.folder import INDEX, SCALE, FolderWeights, shards
from mindnlp_ocr.weights.quantize import GROUP, quantize

QUANTIZATION = {"quant_method": "mindnlp_ocr", "bits": 8, "group_size": GROUP}  # so that others refuse it, not misread it


def quantize_folder(source: Path, target: Path, force: bool = False) -> None:
    """Write a checkpoint whose matrices are int8, NAME beside float32 NAME_scale; everything else is copied.

    One shard is in memory at a time. The target appears when it is complete; a run that breaks off leaves TARGET.part.

    Raises:
        SetupError: the source is no complete checkpoint, is in 8 bits already, or the target exists.
    """
    if target.exists() and not force:
        raise SetupError(f"{target} exists: name another folder, or give --force")
    if target.exists() and source.resolve() == target.resolve():
        raise SetupError(f"{target} is the checkpoint itself: name another folder")
    config = Qwen2VLConfig.from_folder(source)
    with FolderWeights(source, config) as weights:
        if weights.dtype == "int8":
            raise SetupError(f"{source} is in 8 bits already: use it as it is")
    partial = target.with_name(target.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    home: dict[str, str] = {}
    size = 0
    for path in tqdm(shards(source), unit="shard", desc=f"quantizing {source.name}", disable=None):
        converted = _quantized(path)
        save_file(converted, partial / path.name, metadata={"format": "pt"})
        home |= dict.fromkeys(converted, path.name)
        size += sum(array.nbytes for array in converted.values())
    for path in source.iterdir():
        if path.is_file() and path.suffix != ".safetensors" and path.name not in (INDEX, "config.json"):
            shutil.copy(path, partial / path.name)
    raw = {**read_json(source / "config.json"), "quantization_config": QUANTIZATION}
    _write_json(partial / "config.json", raw)
    if (source / INDEX).exists():
        _write_json(partial / INDEX, {"metadata": {"total_size": size}, "weight_map": home})
    if target.exists():
        shutil.rmtree(target)
    partial.replace(target)


def _quantized(path: Path) -> dict[str, NDArray[Any]]:
    converted: dict[str, NDArray[Any]] = {}
    with safe_open(path, framework="np") as file:
        for name in file.keys():  # noqa: SIM118
            array = file.get_tensor(name)
            if array.ndim == 1:
                converted[name] = array
                continue
            q, scales = quantize(array.reshape(len(array), -1).astype(np.float32))
            converted |= {name: q.reshape(array.shape), name + SCALE: scales}
    return converted


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
