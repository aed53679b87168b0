"""Time transformers' vision tower with random weights in float32.

The first line of standard input is config.json, and every further line a grid. Each grid's time is printed in seconds.
"""

import json
import math
import sys
import time

import torch  # type: ignore[import-not-found, unused-ignore]
import transformers  # type: ignore[import-not-found, unused-ignore]

FAMILIES = {
    "qwen2_vl": ("Qwen2VLConfig", "qwen2_vl", "Qwen2VisionTransformerPretrainedModel"),
    "qwen2_5_vl": ("Qwen2_5_VLConfig", "qwen2_5_vl", "Qwen2_5_VisionTransformerPretrainedModel"),
}


def main() -> None:
    shapes = json.loads(sys.stdin.readline())
    configuration, module, model = FAMILIES[shapes["model_type"]]
    config = getattr(transformers, configuration)(**shapes).vision_config
    config._attn_implementation = "sdpa"
    tower = getattr(getattr(transformers.models, module), f"modeling_{module}").__dict__[model](config).float().eval()
    print("ready", flush=True)
    for line in sys.stdin:
        grid = json.loads(line)
        pixels = torch.randn(math.prod(grid), 3 * 2 * 14 * 14)
        with torch.inference_mode():
            start = time.perf_counter()
            tower(pixels, torch.tensor([grid]))
            print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
