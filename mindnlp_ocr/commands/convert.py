"""Write a checkpoint anew: another container, another dtype, 8 bits, or with a LoRA adapter merged in.

mindnlp-ocr convert MODEL merged.npz                       a folder to one file; merged.npz FOLDER goes back
mindnlp-ocr convert MODEL OUTPUT --lora ADAPTER            merge an adapter in, in float32
mindnlp-ocr convert MODEL OUTPUT --dtype int8              a quarter of the size of float32

OUTPUT appears when it is complete; after a run that broke off, the same command goes on where it stopped. SHA-256 sums lie
in OUTPUT/SHA256SUMS or OUTPUT.npz.sha256: `sha256sum -c` checks them.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from mindnlp_ocr.commands import command_parser
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.weights.checkpoint import open_checkpoint
from mindnlp_ocr.weights.convert import convert
from mindnlp_ocr.weights.lora import AdaptedCheckpoint, Adapter
from mindnlp_ocr.weights.quantize import WEIGHT_DTYPES


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = command_parser("convert", __doc__)
    parser.add_argument("model", metavar="MODEL", help="a Qwen2-VL folder, or a merged .npz file")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="the folder to write, or the file where it ends in .npz")
    parser.add_argument("--lora", metavar="DIR", type=Path, help="an adapter to merge in, as PEFT saves it")
    parser.add_argument(
        "--dtype",
        choices=("stored", *WEIGHT_DTYPES),
        default="stored",
        help="what the weights become (default: stored, as they are; int8 takes matrices alone)",
    )
    parser.add_argument("--force", action="store_true", help="replace OUTPUT if it exists")
    arguments = parser.parse_args(argv)
    try:
        checkpoint = open_checkpoint(arguments.model)
        if arguments.lora:
            checkpoint = AdaptedCheckpoint(checkpoint, Adapter(arguments.lora))
        convert(checkpoint, arguments.output, arguments.dtype, arguments.force)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        part = f"{arguments.output}.part"
        print(f"error: {error}: what is done is kept in {part}, the same command goes on from there", file=sys.stderr)
        return 2
    return 0
