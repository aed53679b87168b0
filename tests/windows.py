"""A tiny Qwen2.5-VL with random weights as a folder: the files of the embedded checkpoint with another network, whose vision
tower has windows in all blocks but two."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from mindnlp_ocr.models.qwen2vl import EMBEDDED
from tests.reference import random_weights

SEED = 2
VISION = {
    "depth": 4,
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 84,
    "num_heads": 4,
    "in_chans": 3,
    "out_hidden_size": 64,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [1, 3],
}
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
}


def write_checkpoint(folder: Path, **changes: np.ndarray) -> Path:
    """``changes``: weights in place of the random ones."""
    folder.mkdir(parents=True)
    for path in EMBEDDED.glob("*.json"):
        if "safetensors" not in path.name:
            shutil.copy(path, folder)
    raw: dict[str, Any] = json.loads((EMBEDDED / "config.json").read_text(encoding="utf-8"))
    config = {**raw, **TEXT, "model_type": "qwen2_5_vl", "vision_config": VISION}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({**dict(random_weights.state_dict(config, SEED)), **changes}, folder / "model.safetensors")
    return folder
