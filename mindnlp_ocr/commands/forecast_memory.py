"""Forecast how much memory a checkpoint needs, from its config.json: weights, KV slots, and activations of an image.

mindnlp-ocr forecast                                      # all published shapes in every dtype
mindnlp-ocr forecast --model MODEL --dtype int8 --max-length 8192 --slots 4
mindnlp-ocr forecast --device npu:0                       # works without an NPU

No weights are loaded. Weights are counted in the form in which the engine holds them. Activations are the engine's own
forecast for one image of --pixels and --slots requests. On a CPU, the libraries need about 400 MB in addition (measured with
the built-in model).
"""

import math
from collections.abc import Sequence
from pathlib import Path

from mindnlp_ocr.backends.select import Implementation, backends_for
from mindnlp_ocr.bench import published
from mindnlp_ocr.bench.results import Results, Row
from mindnlp_ocr.bench.tool import exit_status, positive
from mindnlp_ocr.cache.config import KV_DTYPES, CacheConfig
from mindnlp_ocr.cache.slots import KVSlots
from mindnlp_ocr.commands import command_parser
from mindnlp_ocr.config import ModelConfig
from mindnlp_ocr.engine.forecast import activation_bytes
from mindnlp_ocr.models.limits import TEXT_TOKENS
from mindnlp_ocr.ops.device import Device
from mindnlp_ocr.weights.names import expected_shapes
from mindnlp_ocr.weights.quantize import GROUP, WEIGHT_DTYPES, WeightDtype

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


def weight_bytes(config: ModelConfig, dtype: WeightDtype, device: Device) -> int:
    """Return the size of all weights: matrices in ``dtype`` (int8 with a float32 scale per group), vectors in float32.

    On devices other than a CPU, the matrix of the language model head is in float32 as well.
    """
    total = 0
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    for name, shape in expected_shapes(config).items():
        if len(shape) == 1 or (name == head and device.kind != "CPU"):
            total += 4 * math.prod(shape)
            continue
        rows, width = shape[0], math.prod(shape[1:])
        total += BYTES[dtype] * rows * width
        if dtype == "int8":
            total += 4 * rows * math.ceil(width / GROUP)
    return total


def run(argv: Sequence[str] | None = None) -> int:
    parser = command_parser("forecast", __doc__)
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="checkpoint folder (default: all published shapes)")
    parser.add_argument("--device", default="cpu", help="cpu or npu:0 (default: cpu)")
    parser.add_argument("--dtype", choices=WEIGHT_DTYPES, help="dtype of weights (default: all dtypes)")
    parser.add_argument("--kv-dtype", choices=KV_DTYPES, default="fp32", help="dtype of keys and values (default: fp32)")
    parser.add_argument("--slots", type=positive, default=8, help="number of KV slots (default: 8)")
    parser.add_argument("--max-length", type=positive, default=4096, help="length of a KV slot in tokens (default: 4096)")
    parser.add_argument(
        "--pixels", type=positive, default=1036 * 1036, help="size of the image in pixels (default: 1036 x 1036)"
    )
    parser.add_argument("--output", metavar="FILE", help="write the figures to FILE as JSON")
    arguments = parser.parse_args(argv)
    if arguments.model:
        configs = {arguments.model.name: ModelConfig.from_folder(arguments.model)}
    else:
        configs = {published.NAMES[name]: ModelConfig.from_dict(raw) for name, raw in published.CONFIGS.items()}
    device = Device.parse(arguments.device)
    chosen = CacheConfig(kv_dtype=arguments.kv_dtype)
    rows: list[Row] = []
    for name, config in configs.items():
        implementation: Implementation = "flash" if device.kind == "CPU" else "eager"
        backends = backends_for(device, implementation, config)
        vision = config.vision
        patches = arguments.pixels // vision.patch_size**2
        tokens = patches // vision.spatial_merge_size**2 + TEXT_TOKENS
        kv = KVSlots.bytes_needed(config, arguments.slots, arguments.max_length, KVSlots.item_bytes(chosen.kv_dtype))
        activations = activation_bytes(config, patches, tokens, max(tokens, arguments.max_length), backends)
        for dtype in [arguments.dtype] if arguments.dtype else WEIGHT_DTYPES:
            if dtype == "int8" and device.kind != "CPU":
                continue  # 8-bit weights are supported only on a CPU
            weights = weight_bytes(config, dtype, device)
            parts = {"weights_gb": weights, "kv_gb": kv, "activations_gb": activations, "sum_gb": weights + kv + activations}
            rows.append({"model": name, "dtype": dtype, **{key: round(value / 2**30, 2) for key, value in parts.items()}})
    results = Results.start("forecast_memory")
    about = (
        f"{arguments.slots} slots of {arguments.max_length} tokens in {arguments.kv_dtype}; an image of {arguments.pixels} "
        "pixels. GB are 2**30 bytes."
    )
    results.add("forecast", f"Memory forecast, {device}", rows, about)
    if arguments.output:
        results.save(arguments.output)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status."""
    return exit_status(lambda: run(argv))
