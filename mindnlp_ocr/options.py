"""The command-line options, and the checks of their values."""

import argparse
from typing import Any, NoReturn

from mindnlp_ocr import __version__
from mindnlp_ocr.cache.config import KV_DTYPES
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.weights.quantize import WEIGHT_DTYPES

# The formats of mindnlp_ocr.documents, repeated here so that --help and usage errors need not import that package.
FORMATS = ("text", "markdown", "json", "jsonl", "tsv", "hocr", "alto", "pdf")

EPILOG = """\
examples:
  %(prog)s page.png                                         print the text of a page
  %(prog)s report.pdf --pages 1-3,7 --format markdown       convert some pages of a PDF to Markdown
  %(prog)s scan.pdf --format pdf --output out.pdf           write a PDF whose text can be searched and copied
  %(prog)s scans/ 'more/*.jpg' --output pages.txt           read a folder and a pattern into one file
  %(prog)s scans/ --output-dir texts --resume               write one file for each document; skip finished ones
  %(prog)s page.png --visualize drawn                       draw the lines found on the page
  cat scan.pdf | %(prog)s -                                 read standard input
  %(prog)s page.png --format json | jq .results             print lines, boxes, confidence and timings
  %(prog)s serve                                            serve OpenAI's API, documents and a web page (see serve --help)
  %(prog)s batch scans/ --output read                       read millions of pages on a Ray cluster (see batch --help)
  %(prog)s scans/ --output-dir texts --resume --shard 0/4   read the first of four shards

exit status: 0 if every page was read; 1 if some pages could not be read (all others were); 2 if the usage is wrong, or
the model or the device cannot be used
"""


class Parser(argparse.ArgumentParser):
    """Argument parser with the option ``--config`` (see ``settings.py``); ``options`` lists all of its actions."""

    def __init__(self, **arguments: Any) -> None:
        self.options: list[argparse.Action] = []
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **arguments)
        self.add_argument(
            "--config",
            metavar="FILE",
            help="YAML file with settings, such as configs/cpu.yaml; command-line options override it",
        )

    def add_argument(self, *names: Any, **arguments: Any) -> argparse.Action:
        self.options.append(super().add_argument(*names, **arguments))
        return self.options[-1]

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see --help)\n")


def parser() -> Parser:
    """Create the parser of ``mindnlp-ocr``."""
    parser = Parser(
        description="Read the text of documents with Qwen2-VL on MindSpore: images, PDF and multi-page TIFF.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "images",
        nargs="*",
        metavar="DOCUMENT",
        help="images, PDF files, folders, patterns such as 'scans/*.png', or - for standard input",
    )
    parser.add_argument(
        "--image", action="append", default=[], metavar="FILE", help="an additional document; may be repeated"
    )
    add_options(parser)
    add_document_options(parser)
    parser.add_argument("--format", choices=FORMATS, default="text", help="output format (default: text)")
    parser.add_argument("--output", metavar="FILE", help="write to this file instead of standard output")
    parser.add_argument("--output-dir", metavar="DIR", help="write one file for each document to this folder")
    parser.add_argument(
        "--resume", action="store_true", help="with --output-dir: skip documents whose output file already exists"
    )
    parser.add_argument(
        "--visualize", metavar="DIR", help="write images of the pages with boxes, order and confidence to this folder"
    )
    parser.add_argument(
        "--stats", action="store_true", help="print the statistics of the cache to standard error at the end"
    )
    parser.add_argument(
        "--cache-dir", metavar="DIR", help="load the KV cache from this folder at the start, and save it there at the end"
    )
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="with --output-dir: read shard I (from 0 to N-1) of the documents (default: all documents; under msrun, the "
        "shard of the worker)",
    )
    parser.add_argument(
        "--tensor-parallel",
        type=int,
        default=1,
        metavar="N",
        help="split the language model into N parts, one for each of N workers under msrun (default: 1)",
    )
    parser.add_argument("--version", action="version", version=f"mindnlp-ocr {__version__}")
    return parser


def add_document_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for opening documents and reading their pages."""
    parser.add_argument(
        "--layout",
        choices=("auto", "lines", "page", "model"),
        default="auto",
        help="lines: detect the lines of a page and read each line; page: read the whole page in one request; model: the "
        "model finds the blocks of a page, then the built-in checkpoint reads each line, and others read each block (needs "
        "the extra mineru); auto: use the layout that the checkpoint declares (default: auto)",
    )
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="settings for reading pages: mineru, nanonets, olmocr, olmocr2, plain, rolmocr, or a YAML file (default: what "
        "the checkpoint declares, or the preset that matches its name)",
    )
    parser.add_argument(
        "--skip-furniture",
        action="store_true",
        help="omit page headers, footers, page numbers and marginal text, if the layout identifies them (--layout model)",
    )
    parser.add_argument("--pages", metavar="LIST", help="pages to read of every document, such as 1-3,7 (default: all)")
    parser.add_argument(
        "--dpi", type=float, default=200.0, metavar="N", help="resolution at which PDF pages are rendered (default: 200)"
    )
    parser.add_argument("--password", metavar="TEXT", help="password for encrypted PDF files")
    parser.add_argument(
        "--text-layer",
        choices=("ignore", "prefer", "only"),
        default="ignore",
        help="text layer of PDF pages: ignore: read every page; prefer: use the text layer if the page has one; only: use "
        "only the text layer (default: ignore)",
    )
    parser.add_argument(
        "--min-confidence",
        type=float,
        metavar="P",
        help="mark lines with a confidence below P, from 0 to 1, as doubtful (default: the checkpoint's threshold)",
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the model and the engine, except ``--tensor-parallel``."""
    parser.add_argument(
        "--model",
        metavar="PATH",
        help="folder of a Qwen2-VL or Qwen2.5-VL checkpoint, merged .npz file, or exported folder (default: the small "
        "built-in model)",
    )
    parser.add_argument("--lora", metavar="DIR", help="folder of a LoRA adapter in PEFT's format")
    parser.add_argument("--device", default="cpu", help="device: cpu, npu:0 or Ascend (default: cpu)")
    parser.add_argument(
        "--jit-level", choices=("O0", "O1"), default="O0", help="JIT level of the graphs; O1 fuses operators (default: O0)"
    )
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="make results on an NPU bitwise reproducible (on a CPU, they always are)",
    )
    parser.add_argument("--memory-limit-gb", type=float, metavar="N", help="maximum memory to use on an NPU, in GB")
    parser.add_argument(
        "--prompt", metavar="TEXT", help="prompt for every line or page (default: the prompt of the checkpoint)"
    )
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help="maximum number of generated tokens (default: the limit of the checkpoint)",
    )
    parser.add_argument("--max-length", type=int, metavar="N", help="tokens in a KV slot, for prompt and answer together")
    parser.add_argument("--min-pixels", type=int, metavar="N", help="enlarge smaller images to this number of pixels")
    parser.add_argument("--max-pixels", type=int, metavar="N", help="shrink larger images to this number of pixels")
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="number of lines or pages in a batch; it does not change the text (default: up to 16, as many as fit in the "
        "cache)",
    )
    parser.add_argument(
        "--cache-size-mb",
        type=float,
        metavar="N",
        help="maximum size of the KV cache and image features, in MiB (default: depends on the device)",
    )
    parser.add_argument(
        "--kv-dtype", choices=KV_DTYPES, default="fp32", help="dtype of cached keys and values (default: fp32)"
    )
    parser.add_argument(
        "--no-kv-cache",
        action="store_true",
        help="disable the KV cache: run the whole sequence again for every token (slow)",
    )
    parser.add_argument(
        "--attn",
        choices=("auto", "eager", "flash"),
        default="auto",
        help="attention implementation: flash (memory grows linearly with the page size, not quadratically), eager "
        "(MindSpore's own operators), or auto: flash if it is supported, but eager on an NPU (default: auto)",
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", *WEIGHT_DTYPES),
        default="auto",
        help="dtype of the weights; auto: as stored in the checkpoint; int8 rounds the weights; all others give the same "
        "text as fp32 (default: auto)",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="number of CPU threads (default: all cores that the process may use)"
    )
    parser.set_defaults(tensor_parallel=1)


def check(arguments: argparse.Namespace) -> None:
    """Check the ranges of numeric options.

    Raises:
        SetupError: a value is out of range.
    """
    if arguments.max_new_tokens is not None and arguments.max_new_tokens < 1:
        raise SetupError(f"--max-new-tokens is {arguments.max_new_tokens}: use 1 or more", code="not_positive")
    if arguments.batch_size is not None and arguments.batch_size < 1:
        raise SetupError(f"--batch-size is {arguments.batch_size}: use 1 or more", code="not_positive")
    if not 10 <= getattr(arguments, "dpi", 200) <= 2400:
        raise SetupError(f"--dpi is {arguments.dpi:g}: use 10 to 2400", code="dpi_out_of_range")
    confidence = getattr(arguments, "min_confidence", None)
    if confidence is not None and not 0 <= confidence <= 1:
        raise SetupError(f"--min-confidence is {confidence:g}: use 0 to 1", code="min_confidence_out_of_range")


def check_parts(arguments: argparse.Namespace) -> None:
    """Check that only options are set that ``--tensor-parallel`` supports: each page is one request for one image file.

    Raises:
        SetupError: another option is set.
    """
    asked = {
        f"--layout {arguments.layout}": arguments.layout in ("lines", "model"),
        "--preset": arguments.preset,
        "--skip-furniture": arguments.skip_furniture,
        f"--format {arguments.format}": arguments.format not in ("text", "json"),
        "--output-dir": arguments.output_dir,
        "--shard": arguments.shard,
        "--visualize": arguments.visualize,
        "--pages": arguments.pages,
        "--password": arguments.password,
        "--text-layer": arguments.text_layer != "ignore",
        "--min-confidence": arguments.min_confidence is not None,
    }
    if given := [option for option, value in asked.items() if value]:
        raise SetupError(
            f"--tensor-parallel reads whole images into one file of text or JSON: remove {', '.join(given)}",
            code="options_conflict",
        )
