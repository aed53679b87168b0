"""Record what PyTorch's Qwen2.5-VL does with random weights, for the tests to hold the MindSpore engine against.

    .venv-reference/bin/python tests/reference/record_windows.py --output tests/goldens

windows.json and windows.npz: a tiny shape, and the layer shapes of Qwen2.5-VL-3B and 7B (few layers, a small vocabulary),
with images whose windows are cut on the right and at the bottom. Everything runs in float32 on one CPU thread. Every 8th row
of the features is kept, which finds any error and keeps the file small; random_weights.py draws the weights and pixels again
wherever they are needed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from random_weights import tensor
from record import random_model, shape_config, write
from transformers import Qwen2_5_VLForConditionalGeneration

ROWS = 8
STEPS = 4


def config(
    *,
    text: dict[str, Any],
    width: int = 1280,
    heads: int = 16,
    inner: int = 3420,
    depth: int = 3,
    full: tuple[int, ...] = (1,),
) -> dict[str, Any]:
    """A config.json in the published flat layout: true layers, but few."""
    whole = shape_config(**text)
    vision = {
        "model_type": "qwen2_5_vl",
        "depth": depth,
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_heads": heads,
        "in_channels": 3,
        "in_chans": 3,
        "out_hidden_size": text["hidden"],
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": list(full),
        "tokens_per_second": 2,
        "temporal_patch_size": 2,
    }
    return {
        **whole,
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "max_position_embeddings": 128000,
        "vision_config": vision,
    }


TINY = {"hidden": 64, "heads": 4, "key_heads": 2, "inner": 96, "layers": 2, "tied": True, "sections": (2, 3, 3)}
CONFIGS = {
    "tiny": config(text=TINY, width=64, heads=4, inner=84, depth=4, full=(1, 3)),
    "3b": config(text={"hidden": 2048, "heads": 16, "key_heads": 2, "inner": 11008, "layers": 1, "tied": True}, depth=2),
    "7b": config(text={"hidden": 3584, "heads": 28, "key_heads": 4, "inner": 18944, "layers": 1, "tied": False}, depth=2),
}
# Patches in time, height and width: one window, cut windows on both sides, whole windows, strips in both directions.
GRIDS = {
    "tiny": [[1, 4, 6], [1, 18, 26], [1, 16, 16], [1, 2, 40], [1, 34, 2]],
    "3b": [[1, 10, 18], [1, 4, 6]],
    "7b": [[1, 12, 10]],
}
SEEDS = {"tiny": 1, "3b": 4, "7b": 3}  # chosen among the first few for varied tokens without near ties


@torch.no_grad()
def record(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Windows, features, positions, and the logits of the prompt and of some greedy steps."""
    config, seed, grids = CONFIGS[name], SEEDS[name], torch.tensor(GRIDS[name])
    model = random_model(config, seed, Qwen2_5_VLForConditionalGeneration)
    patches = grids.prod(-1)
    pixels = tensor("pixel_values", (int(patches.sum()), 3 * 2 * 14 * 14), seed)
    ids = [17, 401, 1999, 88, 5]
    for count in patches.tolist():
        pads = [config["image_token_id"]] * (count // 4)
        ids += [config["vision_start_token_id"], *pads, config["vision_end_token_id"], 9, 1200]
    ids += [640, 3, 77]
    prompt = torch.tensor([ids])
    given = {
        "input_ids": prompt,
        "attention_mask": torch.ones_like(prompt),
        "pixel_values": torch.from_numpy(pixels),
        "image_grid_thw": grids,
    }
    order, ends = model.visual.get_window_index(grids)
    positions, delta = model.model.get_rope_index(prompt, grids)
    model.generation_config.eos_token_id = None  # random weights have no sentence to end
    answer = model.generate(**given, do_sample=False, max_new_tokens=STEPS, return_dict_in_generate=True, output_logits=True)
    chosen = torch.cat(answer.logits)
    top = chosen.topk(2).values
    entry = {
        "name": name,
        "config": config,
        "seed": seed,
        "input_ids": ids,
        "image_grid_thw": grids.tolist(),
        "window_ends": torch.unique_consecutive(torch.tensor(ends)).tolist(),
        "rope_delta": int(delta.item()),
        "token_ids": answer.sequences[0, len(ids) :].tolist(),
        "smallest_margin": round(float((top[:, 0] - top[:, 1]).min()), 5),
    }
    arrays = {
        "window_index": order.numpy().astype(np.int32),
        "vision": torch.cat(tuple(model.model.get_image_features(given["pixel_values"], grids)))[::ROWS].numpy(),
        "position_ids": positions[:, 0].numpy().astype(np.int32),
        "step_logits": chosen.numpy(),
    }
    spreads = {key: f"{value.std():.3g}" for key, value in arrays.items()}
    print(f"{name}: tokens {entry['token_ids']}, margin {entry['smallest_margin']}, deviations {spreads}", flush=True)
    return entry, {f"{name}/{key}": value for key, value in arrays.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", choices=CONFIGS, nargs="+", default=list(CONFIGS), help="for a look at some seed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    entries, arrays = [], {}
    for name in arguments.only:
        entry, kept = record(name)
        entries.append(entry)
        arrays.update(kept)
    write(arguments.output / "windows", {"models": entries}, arrays)


if __name__ == "__main__":
    main()
