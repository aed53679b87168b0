"""Weights in the published Qwen2-VL file format: bfloat16, in files of about 15 MB with an index."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.model import Qwen2VL

FILE_BYTES = 15 * 2**20


def load(folder: Path) -> Qwen2VL:
    """Load the model of a checkpoint folder in float32."""
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors.update(load_file(path))
    model = Qwen2VL()
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return model


def export(tensors: dict[str, Tensor], folder: Path) -> None:
    """Write the weights to a folder. Its configuration and tokenizer files are not changed."""
    folder.mkdir(parents=True, exist_ok=True)
    files: list[dict[str, Tensor]] = [{}]
    size = total = 0
    for name, tensor in tensors.items():
        taken = tensor.numel() * 2
        if size + taken > FILE_BYTES:
            files.append({})
            size = 0
        files[-1][name] = tensor.detach().to(torch.bfloat16).contiguous().cpu()
        size, total = size + taken, total + taken
    places: dict[str, str] = {}
    for number, part in enumerate(files, 1):
        name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        save_file(part, folder / name, metadata={"format": "pt"})
        places.update(dict.fromkeys(part, name))
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf8")


def average(first: Path, second: Path, share: float, folder: Path) -> None:
    """Write the weighted mean of two checkpoints; ``share`` is the weight of the second."""
    a, b = load(first).state_dict(), load(second).state_dict()
    export({name: torch.lerp(a[name], b[name], share) for name in a}, folder)
