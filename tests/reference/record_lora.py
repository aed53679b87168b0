"""Record what PEFT does with LoRA adapters, for the tests to hold ours against.

    .venv-reference/bin/pip install "peft>=0.17,<0.20"
    .venv-reference/bin/python tests/reference/record_lora.py --checkpoint CHECKPOINT --output tests/goldens/lora

Adapters of random numbers, saved by PEFT, each in a folder of its own; merged.npz: every SAMPLE-th number of each weight
that an adapter changes, as `merge_and_unload` leaves it in float32; pages.json: the tokens of some pages under each adapter.
"""

from __future__ import annotations

import argparse
import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import LoraLayer
from prompts import Case, page
from record import NEAR_TIE, Reference

SAMPLE = 401
PAGES = [page("word_56x56.png", "OCR"), page("line_392x28.png", "OCR"), page("zh_line_336x34.png", "OCR")]
TEXT = r"model\.language_model\.layers\.[05]\."
VISION = r"model\.visual\.(blocks\.[07]\.(attn\.(qkv|proj)|mlp\.fc[12])|merger\.mlp\.[02]|patch_embed\.proj)"

# Each with the scale of its random numbers, which is raised until texts differ and there are no near ties.
FACTORS = (1.0, 1.2, 1.4, 1.7, 2.0, 2.5, 3.0)
ADAPTERS = {
    "patterns": (
        LoraConfig(
            r=4,
            lora_alpha=6,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
            layers_to_transform=[1, 2],
            layers_pattern="layers",
            rank_pattern={"layers.1.self_attn.q_proj": 2, "o_proj": 3},
            alpha_pattern={r"layers\.2\.self_attn\.[kv]_proj": 20},
        ),
        0.1,
    ),
    "everything": (
        LoraConfig(
            r=2,
            lora_alpha=5,
            use_rslora=True,
            target_modules=rf"{TEXT}(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)|{VISION}",
            modules_to_save=["merger.ln_q", "language_model.norm"],
        ),
        0.085,
    ),
    "head": (LoraConfig(r=1, lora_alpha=2, target_modules=["embed_tokens", "lm_head"]), 0.4),
}


def published(name: str) -> str:
    """The name that the checkpoint stores a weight under."""
    name = name.replace(".base_layer", "").replace(".modules_to_save.default", "").removeprefix("base_model.model.")
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


@torch.no_grad()
def randomise(model: torch.nn.Module, scale: float) -> None:
    """Numbers that depend on nothing but the name, rounded so that the files are small."""
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        noise = torch.randn(parameter.shape, generator=generator) * scale
        if "lora_" in name:
            parameter.copy_(noise.to(torch.bfloat16))
        elif "modules_to_save" in name:
            parameter.copy_((parameter * (1 + noise)).to(torch.bfloat16))


@torch.no_grad()
def merged(model: PeftModel, checkpoint: Path) -> dict[str, np.ndarray]:
    """All weights that the adapter changes, by their published names."""
    found: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            delta = module.get_delta_weight("default")
            found[published(f"{name}.weight")] = module.get_base_layer().weight + delta
        elif name.endswith("modules_to_save.default"):
            found.update({published(f"{name}.{key}"): value.clone() for key, value in module.named_parameters()})
    if not any("lm_head" in name for name in found):  # tied: PEFT would merge both adapters into the one tensor
        whole = model.merge_and_unload(safe_merge=True).state_dict()
        whole = {published(name): value for name, value in whole.items()}
        assert all(torch.allclose(whole[name], value, atol=1e-6, rtol=0) for name, value in found.items())
        found = {name: whole[name] for name in found}
    return {name: value.float().numpy().reshape(-1)[::SAMPLE] for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    reference = Reference(arguments.checkpoint)
    plain = {case.name: reference.record(case)[0]["token_ids"] for case in PAGES}
    pages: dict[str, dict[str, dict[str, object]]] = {}
    arrays: dict[str, np.ndarray] = {}
    for adapter, (config, scale) in ADAPTERS.items():
        for factor in FACTORS:
            reference = Reference(arguments.checkpoint)
            model = get_peft_model(reference.model, config)
            randomise(model, scale * factor)
            entries = {case.name: reference.record(Case(case.name, case.messages, 24))[0] for case in PAGES}
            clear = all(entry["smallest_margin"] > NEAR_TIE for entry in entries.values())
            if clear and any(entries[name]["token_ids"] != plain[name][:24] for name in plain):
                break
        else:
            raise AssertionError(f"{adapter}: at every scale the text stays the same or has a near tie; use another seed")
        print(adapter, scale * factor, {name: entry["text"] for name, entry in entries.items()})
        folder = arguments.output / adapter
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
        shrink(folder / "adapter_model.safetensors")
        kept = ("messages", "max_new_tokens", "token_ids")
        pages[adapter] = {name: {key: entry[key] for key in kept} for name, entry in entries.items()}
        arrays |= {f"{adapter}/{name}": value for name, value in merged(model, arguments.checkpoint).items()}
    np.savez_compressed(arguments.output / "merged.npz", **arrays)
    (arguments.output / "pages.json").write_text(json.dumps(pages, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def shrink(path: Path) -> None:
    """bfloat16 holds these numbers exactly."""
    from safetensors.torch import load_file, save_file

    save_file({name: value.to(torch.bfloat16) for name, value in load_file(path).items()}, path, {"format": "pt"})


if __name__ == "__main__":
    main()
