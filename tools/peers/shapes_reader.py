"""Measure a checkpoint with our engine or transformers on PyTorch: memory, and times for an image and a fixed text length.

usage: shapes_reader.py ours|transformers CHECKPOINT DTYPE PIXELS TOKENS RUNS

Prints JSON: milliseconds to the first token, milliseconds per further token, number of prompt tokens, and peak memory in MB.
For int8, torch quantizes the linear layers of transformers (dynamic quantization, with float32 activations).
"""

import json
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PROMPT = "\nLayout Detection:"


def picture(pixels: int) -> Image.Image:
    """Return a square image of noise, the same in every process."""
    noise = np.random.default_rng(0).integers(0, 256, (pixels, pixels, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def ours(folder: Path, dtype: str, pixels: int, tokens: int, runs: int) -> tuple[list[float], list[float], int]:
    from mindnlp_ocr import CacheConfig, Qwen2VLModel, SamplingParams

    options: Any = {"dtype": dtype, "max_length": 2048, "max_pixels": max(pixels * pixels, 401408)}
    model = Qwen2VLModel(folder, cache_config=CacheConfig(slots=1), **options)
    sampling = SamplingParams(max_new_tokens=tokens, ignore_eos=True, repetition_guard=False)
    content = [{"type": "image", "image": picture(pixels)}, {"type": "text", "text": PROMPT}]
    first, further, length = [], [], 0
    for _ in range(runs + 1):
        model.clear_cache()
        reading = model.generate([{"role": "user", "content": content}], sampling=sampling)
        times = reading.timings_ms
        first.append(times["preprocess"] + times["vision"] + times["prefill"])
        further.append(times["decode"] / (tokens - 1))
        length = reading.prompt_tokens
    return first[1:], further[1:], length


def transformers(folder: Path, dtype: str, pixels: int, tokens: int, runs: int) -> tuple[list[float], list[float], int]:
    import torch  # type: ignore[import-not-found, unused-ignore]
    from tokenizers import Tokenizer
    from transformers import Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor

    kind = {"fp32": torch.float32, "int8": torch.float32, "bf16": torch.bfloat16}[dtype]
    model: Any = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=kind).eval()
    if dtype == "int8":
        model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    images = Qwen2VLImageProcessor.from_pretrained(folder, max_pixels=max(pixels * pixels, 401408))
    first, further, length = [], [], 0
    for _ in range(runs + 1):
        calls: list[float] = []
        start = time.perf_counter()
        batch = images(images=[picture(pixels)], return_tensors="pt")
        pads = "<|image_pad|>" * (int(batch["image_grid_thw"].prod()) // 4)
        text = (
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
            f"<|vision_start|>{pads}<|vision_end|>{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
        )
        ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False).ids])

        class Clock:
            def put(self, _: Any) -> None:
                calls.append(time.perf_counter())  # noqa: B023 - the list of this run

            def end(self) -> None: ...

        with torch.inference_mode():
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                **{name: value.to(kind) if value.is_floating_point() else value for name, value in batch.items()},
                do_sample=False,
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                streamer=Clock(),
            )
        first.append((calls[1] - start) * 1e3)
        further.append((calls[-1] - calls[1]) * 1e3 / (tokens - 1))
        length = ids.shape[1]
    return first[1:], further[1:], length


def main() -> None:
    engine, folder, dtype, *numbers = sys.argv[1:]
    read = {"ours": ours, "transformers": transformers}[engine]
    first, further, length = read(Path(folder), dtype, *map(int, numbers))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([statistics.median(first), statistics.median(further), length, peak]))


if __name__ == "__main__":
    main()
