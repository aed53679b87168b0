"""Record what mineru-vl-utils reads with its own transformers backend, for the tests to hold our client against.

    .venv-reference/bin/pip install --group reference 'mineru-vl-utils>=2.0.7,<2.1'
    .venv-reference/bin/python tests/reference/record_mineru.py --checkpoint CHECKPOINT --output tests/goldens/mineru.json

Everything runs in float32 on one CPU thread, one request at a time. That backend leaves out presence and frequency
penalties, so requests are made without them; tests/goldens/sampling.json is of those. The layout picture is so small that
the checkpoint's limit of pixels does not shrink it.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import mineru_vl_utils
import torch
import transformers
from mineru_vl_utils.mineru_client import DEFAULT_SAMPLING_PARAMS, MinerUClient, MinerUSamplingParams
from PIL import Image
from transformers import PreTrainedTokenizerFast, Qwen2VLForConditionalGeneration
from transformers.feature_extraction_utils import BatchFeature
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "examples/letter.png",
    "examples/invoice.png",
    "examples/receipt.png",
    "tests/data/dev/receipt_440.jpg",
    "tests/data/dev/typeset_12_clean_110.jpg",
)
LAYOUT_SIZE = (616, 616)
MAX_NEW_TOKENS = 300
IMAGE_PAD = "<|image_pad|>"


class Processor:
    """What Qwen2VLProcessor does for images; that class wants torchvision for videos."""

    def __init__(self, checkpoint: Path) -> None:
        self.image_processor = Qwen2VLImageProcessor.from_pretrained(checkpoint)
        self.tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(checkpoint / "tokenizer.json"), pad_token="<|endoftext|>", eos_token="<|im_end|>"
        )
        template = json.loads((checkpoint / "chat_template.json").read_text(encoding="utf-8"))["chat_template"]
        self.tokenizer.chat_template = template

    def apply_chat_template(self, messages: list[dict[str, Any]], **options: Any) -> str:
        return self.tokenizer.apply_chat_template(messages, **options)

    def __call__(self, text: list[str], images: list[Image.Image], **options: Any) -> BatchFeature:
        pixels = self.image_processor(images, return_tensors="pt")
        tokens = [int(grid.prod()) // self.image_processor.merge_size**2 for grid in pixels["image_grid_thw"]]
        prompts = [prompt.replace(IMAGE_PAD, IMAGE_PAD * count) for prompt, count in zip(text, tokens, strict=True)]
        encoded = self.tokenizer(prompts, add_special_tokens=False, return_tensors="pt")
        return BatchFeature({**{name: encoded[name] for name in ("input_ids", "attention_mask")}, **pixels})

    def batch_decode(self, token_ids: list[list[int]], **options: Any) -> list[str]:
        return self.tokenizer.batch_decode(token_ids, **options)


def sampling() -> dict[str, MinerUSamplingParams]:
    """For every kind of block, without what the backend leaves out."""
    return {kind: MinerUSamplingParams(max_new_tokens=MAX_NEW_TOKENS) for kind in DEFAULT_SAMPLING_PARAMS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = Qwen2VLForConditionalGeneration.from_pretrained(
        arguments.checkpoint, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    client = MinerUClient(
        "transformers",
        model=model,
        processor=Processor(arguments.checkpoint),
        layout_image_size=LAYOUT_SIZE,
        sampling_params=sampling(),
        batch_size=1,
        use_tqdm=False,
    )
    pages = {}
    for name in PAGES:
        image = Image.open(ROOT / name).convert("RGB")
        layout = client.client.predict(
            client.helper.prepare_for_layout(image), client.prompts["[layout]"], client.sampling_params["[layout]"]
        )
        pages[name] = {"layout": layout, "blocks": list(client.two_step_extract(image))}
    about = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "mineru_vl_utils": mineru_vl_utils.__version__,
        "python": platform.python_version(),
        "layout_size": LAYOUT_SIZE,
        "max_new_tokens": MAX_NEW_TOKENS,
    }
    arguments.output.write_text(
        json.dumps({"about": about, "pages": pages}, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
