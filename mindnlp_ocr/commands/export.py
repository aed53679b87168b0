"""Export a model as MindIR graphs: `mindnlp-ocr export --output DIR`, then `mindnlp-ocr --model DIR page.png`.

DIR will contain the vision, prefill and decode graphs, packed weights, the tokenizer and the settings; it can be moved. The
device is not needed: graphs for Ascend can be exported on any machine (docs/export.md describes how far they were tested).
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mindnlp_ocr.cache.config import KV_DTYPES, CacheConfig, get_optimal_cache_config
from mindnlp_ocr.commands import command_parser
from mindnlp_ocr.errors import SetupError, coded
from mindnlp_ocr.weights.quantize import WEIGHT_DTYPES


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status."""
    parser = command_parser("export", __doc__)
    parser.add_argument("--model", metavar="PATH", help="a checkpoint folder or merged .npz (default: the built-in model)")
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="the folder to write")
    parser.add_argument("--lora", metavar="DIR", help="LoRA adapter to merge into the weights")
    parser.add_argument("--device", default="cpu", help="target device of the graphs: cpu or Ascend (default: cpu)")
    parser.add_argument(
        "--attn",
        choices=("auto", "eager", "flash"),
        default="auto",
        help="attention implementation (default: flash on a CPU, else eager)",
    )
    parser.add_argument(
        "--dtype", choices=("auto", *WEIGHT_DTYPES), default="auto", help="dtype of weights (default: as stored)"
    )
    parser.add_argument("--kv-dtype", choices=KV_DTYPES, default="fp32", help="dtype of keys and values (default: fp32)")
    parser.add_argument(
        "--slots", type=int, metavar="N", help="number of KV slots (default: as many as fit into --cache-size-mb, up to 8)"
    )
    parser.add_argument(
        "--cache-size-mb", type=float, metavar="N", help="maximum size of the KV slots (default: depends on the device)"
    )
    parser.add_argument(
        "--max-length", type=int, metavar="N", help="length of a KV slot in tokens, for prompt and answer together"
    )
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help="maximum length of an answer in tokens (default: the checkpoint's value)",
    )
    parser.add_argument(
        "--max-pixels", type=int, metavar="N", help="maximum size of an image; larger images are scaled down"
    )
    parser.add_argument(
        "--vision-patches",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="sizes of the vision graphs, in patches of 14 x 14 pixels (default: all sizes for images up to --max-pixels)",
    )
    parser.add_argument("--force", action="store_true", help="replace DIR if it is an exported folder")
    arguments = parser.parse_args(argv)
    try:
        size = arguments.cache_size_mb or get_optimal_cache_config(arguments.device).max_cache_size_mb
        cache = CacheConfig(max_cache_size_mb=size, kv_dtype=arguments.kv_dtype, slots=arguments.slots)
        from mindnlp_ocr.models.export import export_model  # imports MindSpore
        from mindnlp_ocr.models.limits import Limits
        from mindnlp_ocr.models.qwen2vl import EMBEDDED

        limits = Limits(arguments.max_length, arguments.max_new_tokens, None, arguments.max_pixels)
        start = time.perf_counter()
        manifest = export_model(
            arguments.model or EMBEDDED,
            arguments.output,
            arguments.device,
            arguments.lora,
            cache,
            limits,
            arguments.vision_patches,
            arguments.attn,
            arguments.dtype,
            arguments.force,
        )
    except (SetupError, OSError) as error:
        print(f"error: {coded(error, getattr(error, 'code', None))}", file=sys.stderr)
        return 2
    size = sum(path.stat().st_size for path in arguments.output.iterdir()) / 2**20
    print(
        f"{arguments.output}: {len(manifest.graphs)} graphs for {manifest.device}, {manifest.attention} attention, "
        f"{manifest.dtype} weights, {manifest.slots} slots of {manifest.max_length} tokens: {size:.0f} MB in "
        f"{time.perf_counter() - start:.1f} s"
    )
    return 0
