"""Convert a checkpoint to another file format or dtype, quantize it to 8 bits, or merge a LoRA adapter into it.

mindnlp-ocr convert MODEL merged.npz                       convert a folder to a single file
mindnlp-ocr convert merged.npz FOLDER                      convert it back
mindnlp-ocr convert MODEL OUTPUT --lora ADAPTER            merge an adapter, computed in float32
mindnlp-ocr convert MODEL OUTPUT --dtype int8              reduce the size to a quarter of float32

OUTPUT appears only when it is complete. After an interruption, run the same command to continue. SHA-256 checksums are
written to OUTPUT/SHA256SUMS or OUTPUT.npz.sha256; verify them with `sha256sum -c`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from mindnlp_ocr.commands import command_parser
from mindnlp_ocr.errors import SetupError, coded
from mindnlp_ocr.weights.checkpoint import open_checkpoint
from mindnlp_ocr.weights.convert import convert
from mindnlp_ocr.weights.lora import AdaptedCheckpoint, Adapter
from mindnlp_ocr.weights.quantize import WEIGHT_DTYPES


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status."""
    parser = command_parser("convert", __doc__)
    parser.add_argument("model", metavar="MODEL", help="a checkpoint folder or a merged .npz file")
    parser.add_argument(
        "output", metavar="OUTPUT", type=Path, help="the folder to write, or a file if the name ends in .npz"
    )
    parser.add_argument("--lora", metavar="DIR", type=Path, help="LoRA adapter to merge, in PEFT's format")
    parser.add_argument(
        "--dtype",
        choices=("stored", *WEIGHT_DTYPES),
        default="stored",
        help="dtype of the written weights; int8 applies to matrices only (default: stored, which keeps the dtypes)",
    )
    parser.add_argument("--force", action="store_true", help="replace OUTPUT if it exists")
    arguments = parser.parse_args(argv)
    try:
        checkpoint = open_checkpoint(arguments.model)
        if arguments.lora:
            checkpoint = AdaptedCheckpoint(checkpoint, Adapter(arguments.lora))
        convert(checkpoint, arguments.output, arguments.dtype, arguments.force)
    except SetupError as error:
        print(f"error: {coded(error, error.code)}", file=sys.stderr)
        return 2
    except OSError as error:
        part = f"{arguments.output}.part"
        print(f"error: {error}: finished weights are kept in {part}, run the same command to continue", file=sys.stderr)
        return 2
    return 0
