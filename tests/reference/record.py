"""Record what PyTorch's Qwen2-VL does, for the tests to hold the MindSpore engine against.

    python -m venv .venv-reference && .venv-reference/bin/pip install --group reference
    .venv-reference/bin/python tests/reference/record.py --checkpoint CHECKPOINT --output tests/goldens

Everything runs in float32 on one CPU thread. `--only pages` or `--only shapes` records one half.

pages.json and pages.npz: the small checkpoint on real pages (prompt, preprocessing, positions, logits, tokens).
shapes.json and shapes.npz: random weights at the layer shapes of Qwen2-VL-2B and 7B, which random_weights.py draws
again wherever they are needed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import PIL
import tokenizers
import torch
import transformers
from PIL import Image
from prompts import Case, Message, cases
from random_weights import state_dict, tensor
from tokenizers import Tokenizer
from transformers import Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

ROOT = Path(__file__).resolve().parents[2]
IMAGE_PAD = "<|image_pad|>"
VISION_ROWS = 8  # every 8th row of the visual features is kept, which finds any error and keeps the file small
NEAR_TIE = 2e-3  # below this gap between the two best logits, correct engines may choose differently


def on_white_paper(path: Path | str) -> Image.Image:
    """An RGB image. The engine lays transparent pages on white, the published processor would show what lies below."""
    page = Image.open(path)
    if not page.has_transparency_data:
        return page.convert("RGB")
    page = page.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", page.size, "white"), page).convert("RGB")


def edit_distance(reference: str, read: str) -> int:
    """The edit distance of two texts."""
    row = list(range(len(read) + 1))
    for i, expected in enumerate(reference, 1):
        before, row[0] = row[0], i
        for j, found in enumerate(read, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (expected != found))
    return row[-1]


class Reference:
    """The published model, processor and chat template of one checkpoint."""

    def __init__(self, checkpoint: Path) -> None:
        self.processor = Qwen2VLImageProcessor.from_pretrained(checkpoint)
        self.tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
        template = json.loads((checkpoint / "chat_template.json").read_text(encoding="utf-8"))["chat_template"]
        # trim_blocks and lstrip_blocks are what transformers sets for chat templates
        self.template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(template)
        self.model = Qwen2VLForConditionalGeneration.from_pretrained(
            checkpoint, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()

    def inputs(self, messages: list[Message]) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Token ids with the image places filled in, pixel values and grids, the last two empty without images."""
        parts = [part for m in messages if isinstance(m["content"], list) for part in m["content"]]
        paths = [ROOT / part["image"] for part in parts if part["type"] == "image"]
        pixels, grids = np.zeros((0, 0), np.float32), np.zeros((0, 3), np.int64)
        if paths:
            # Alpha is dropped and grey is repeated, as transformers and qwen-vl-utils do.
            batch = self.processor([on_white_paper(path) for path in paths], return_tensors="np")
            pixels, grids = batch["pixel_values"].astype(np.float32), batch["image_grid_thw"]
        prompt = self.template.render(messages=messages, add_generation_prompt=True)
        for grid in grids:
            # A stand-in keeps the places that are already filled from being found again.
            prompt = prompt.replace(IMAGE_PAD, "<|place|>" * int(grid.prod() // self.processor.merge_size**2), 1)
        return self.tokenizer.encode(prompt.replace("<|place|>", IMAGE_PAD)).ids, pixels, grids

    @torch.no_grad()
    def record(self, case: Case) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What goes into pages.json and what goes into pages.npz."""
        ids, pixels, grids = self.inputs(case.messages)
        prompt = torch.tensor([ids])
        given: dict[str, torch.Tensor] = {}
        if len(grids):
            given = {"pixel_values": torch.from_numpy(pixels), "image_grid_thw": torch.from_numpy(grids)}
        positions, delta = self.model.model.get_rope_index(prompt, given.get("image_grid_thw"))
        logits = self.model(input_ids=prompt, attention_mask=torch.ones_like(prompt), **given).logits[0, -1]
        answer = self.model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            **given,
            do_sample=False,
            max_new_tokens=case.max_new_tokens,
            return_dict_in_generate=True,
            output_logits=True,
        )
        token_ids = answer.sequences[0, len(ids) :].tolist()
        top = torch.cat(answer.logits).topk(2).values
        stops = self.model.generation_config.eos_token_id
        arrays = {
            "position_ids": positions[:, 0].numpy().astype(np.int32),
            "logits": logits.numpy(),
        }
        if len(grids):
            features = self.model.model.get_image_features(given["pixel_values"], given["image_grid_thw"])
            arrays["vision"] = torch.cat(tuple(features))[::VISION_ROWS].numpy()
        entry = {
            "name": case.name,
            "messages": case.messages,
            "max_new_tokens": case.max_new_tokens,
            "prompt_ids": ids,
            "image_grid_thw": grids.tolist(),
            "pixels_shape": list(pixels.shape),
            "pixels_sha256": hashlib.sha256(np.ascontiguousarray(pixels, "<f4").tobytes()).hexdigest(),
            "rope_delta": int(delta.item()),
            "token_ids": token_ids,
            "finish_reason": "stop" if token_ids[-1] in stops else "length",
            "smallest_margin": round(float((top[:, 0] - top[:, 1]).min()), 5),
            "text": self.tokenizer.decode(token_ids, skip_special_tokens=True),
        }
        return entry, {f"{case.name}/{key}": value for key, value in arrays.items()}


def report(entry: dict[str, Any]) -> None:
    """Print how well a page was read and how near the closest choice was."""
    line = f"{entry['name']:22} {len(entry['token_ids']):4} {entry['finish_reason']:6} {entry['smallest_margin']:8.4f}"
    contents = [message["content"] for message in entry["messages"] if isinstance(message["content"], list)]
    paths = [part["image"] for content in contents for part in content if part["type"] == "image"]
    if len(paths) == 1 and entry["finish_reason"] == "stop":
        shown = (ROOT / paths[0]).with_suffix(".txt").read_text(encoding="utf-8").rstrip("\n")
        errors = edit_distance(shown, entry["text"])
        line += f"  errors {errors} of {len(shown)} = {100 * errors / max(len(shown), 1):.1f} %"
    print(line + ("  NEAR TIE" if entry["smallest_margin"] < NEAR_TIE else ""), flush=True)


def record_pages(checkpoint: Path, output: Path) -> None:
    """Write pages.json and pages.npz."""
    reference = Reference(checkpoint)
    entries, arrays = [], {}
    for case in cases():
        entry, kept = reference.record(case)
        report(entry)
        entries.append(entry)
        arrays.update(kept)
    write(output / "pages", {"cases": entries}, arrays)


def shape_config(
    *, hidden: int, heads: int, key_heads: int, inner: int, layers: int, tied: bool, sections: tuple[int, ...] = (16, 24, 24)
) -> dict[str, Any]:
    """A config.json in the published flat layout: true layers of Qwen2-VL, but few, and a small vocabulary."""
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "vocab_size": 2048,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "intermediate_size": inner,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": list(sections)},
        "rms_norm_eps": 1e-06,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 32768,
        "use_cache": True,
        "use_sliding_window": False,
        "sliding_window": 32768,
        "max_window_layers": layers,
        "torch_dtype": "bfloat16",
        "bos_token_id": 2035,
        "eos_token_id": 2037,
        "pad_token_id": 2035,
        "vision_start_token_id": 2040,
        "vision_end_token_id": 2041,
        "vision_token_id": 2042,
        "image_token_id": 2043,
        "video_token_id": 2044,
        "vision_config": {
            "model_type": "qwen2_vl",
            "depth": 2,
            "embed_dim": 1280,
            "hidden_size": hidden,
            "num_heads": 16,
            "mlp_ratio": 4,
            "patch_size": 14,
            "spatial_patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "in_channels": 3,
            "in_chans": 3,
            "hidden_act": "quick_gelu",
        },
    }


SHAPES = {
    "2b": shape_config(hidden=1536, heads=12, key_heads=2, inner=8960, layers=2, tied=True),
    "7b": shape_config(hidden=3584, heads=28, key_heads=4, inner=18944, layers=1, tied=False),
    "mineru2.5-1.2b": shape_config(hidden=896, heads=14, key_heads=2, inner=4864, layers=2, tied=True, sections=(8, 12, 12)),
}
SEEDS = {"2b": 3, "7b": 5, "mineru2.5-1.2b": 7}  # chosen among the first few for varied tokens without near ties


def random_model(config: dict[str, Any], seed: int, kind: Any = Qwen2VLForConditionalGeneration) -> Any:
    """A model of this class with weights from random_weights.py, all of which must be used."""
    weights = {name: torch.from_numpy(array) for name, array in state_dict(config, seed)}
    model, loading = kind.from_pretrained(
        None,
        config=kind.config_class(**config),
        state_dict=weights,
        dtype=torch.float32,
        attn_implementation="sdpa",
        output_loading_info=True,
    )
    faults = {kind: names for kind, names in loading.items() if names}
    if faults:
        raise RuntimeError(f"the weights do not fit: {faults}")
    return model.eval()


@torch.no_grad()
def record_shape(name: str, config: dict[str, Any], seed: int, steps: int = 4) -> tuple[dict[str, Any], dict[str, Any]]:
    """Vision features, logits of the prompt and some greedy steps of a model with random weights."""
    model = random_model(config, seed)
    grid = [1, 6, 8]
    patches = grid[0] * grid[1] * grid[2]
    pixels = tensor("pixel_values", (patches, 3 * 2 * 14 * 14), seed)
    pads = [config["image_token_id"]] * (patches // 4)
    picture = [config["vision_start_token_id"], *pads, config["vision_end_token_id"]]
    ids = [17, 401, 1999, 88, 5, *picture, 9, 1200, 640, 3, 77]
    prompt, grids = torch.tensor([ids]), torch.tensor([grid])
    given = {
        "input_ids": prompt,
        "attention_mask": torch.ones_like(prompt),
        "pixel_values": torch.from_numpy(pixels),
        "image_grid_thw": grids,
    }
    positions, delta = model.model.get_rope_index(prompt, grids)
    logits = model(**given).logits[0]
    model.generation_config.eos_token_id = None  # random weights have no sentence to end
    answer = model.generate(**given, do_sample=False, max_new_tokens=steps, return_dict_in_generate=True, output_logits=True)
    chosen = torch.cat(answer.logits)
    top = chosen.topk(2).values
    entry = {
        "name": name,
        "config": config,
        "seed": seed,
        "input_ids": ids,
        "image_grid_thw": [grid],
        "pixels_shape": list(pixels.shape),
        "rope_delta": int(delta.item()),
        "token_ids": answer.sequences[0, len(ids) :].tolist(),
        "smallest_margin": round(float((top[:, 0] - top[:, 1]).min()), 5),
    }
    arrays = {
        "vision": torch.cat(tuple(model.model.get_image_features(given["pixel_values"], grids))).numpy(),
        "position_ids": positions[:, 0].numpy().astype(np.int32),
        "logits": logits.numpy(),
        "step_logits": chosen.numpy(),
    }
    spreads = {key: f"{value.std():.3g}" for key, value in arrays.items()}
    print(f"{name}: tokens {entry['token_ids']}, margin {entry['smallest_margin']}, deviations {spreads}", flush=True)
    return entry, {f"{name}/{key}": value for key, value in arrays.items()}


def record_shapes(output: Path) -> None:
    """Write shapes.json and shapes.npz."""
    entries, arrays = [], {}
    for name, config in SHAPES.items():
        entry, kept = record_shape(name, config, SEEDS[name])
        entries.append(entry)
        arrays.update(kept)
    write(output / "shapes", {"models": entries}, arrays)


def write(stem: Path, described: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """One JSON file to read and compare by eye, with lists of numbers on one line, and one of arrays."""
    versions = {module.__name__: str(module.__version__) for module in (torch, transformers, tokenizers, np, PIL)}
    versions["python"] = platform.python_version()
    stem.parent.mkdir(parents=True, exist_ok=True)
    key, entries = next(iter(described.items()))

    def block(entry: dict[str, Any]) -> str:
        fields = (f"      {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in entry.items())
        return "    {\n" + ",\n".join(fields) + "\n    }"

    body = ",\n".join(map(block, entries))
    document = f'{{\n  "recorded_with": {json.dumps(versions)},\n  {json.dumps(key)}: [\n{body}\n  ]\n}}\n'
    stem.with_suffix(".json").write_text(document, encoding="utf-8")
    np.savez_compressed(stem.with_suffix(".npz"), **arrays)
    for path in (stem.with_suffix(".json"), stem.with_suffix(".npz")):
        print(f"{path.name}  {path.stat().st_size:,} bytes")


def main() -> None:
    """Record what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of the small checkpoint")
    parser.add_argument("--output", type=Path, default=ROOT / "tests" / "goldens")
    parser.add_argument("--only", choices=("pages", "shapes"), help="record one half")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the order of sums, and so the last bits, then depends on no machine's core count
    if options.only != "shapes":
        record_pages(options.checkpoint, options.output)
    if options.only != "pages":
        record_shapes(options.output)


if __name__ == "__main__":
    main()
