"""The options of the command line, and which values of them are refused."""

import argparse
from typing import Any, NoReturn

from mindnlp_ocr import __version__
from mindnlp_ocr.cache.config import KV_DTYPES
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.weights.quantize import WEIGHT_DTYPES

# As mindnlp_ocr.documents has them; named here, so that --help and wrong usage need no import of it.
FORMATS = ("text", "markdown", "json", "jsonl", "tsv", "hocr", "alto", "pdf")

EPILOG = """\
examples:
  %(prog)s page.png                                   print the text of a page
  %(prog)s report.pdf --pages 1-3,7 --format markdown   some pages of a PDF, as Markdown
  %(prog)s scan.pdf --format pdf --output out.pdf       a PDF whose text can be searched and copied
  %(prog)s scans/ 'more/*.jpg' --output pages.txt       a folder and a pattern, into one file
  %(prog)s scans/ --output-dir texts --resume           a file for each document; finished ones are skipped
  %(prog)s page.png --visualize drawn                   draw what was found on the page
  cat scan.pdf | %(prog)s -                             read standard input
  %(prog)s page.png --format json | jq .results         lines, boxes, confidence and timings
  %(prog)s serve                                      OpenAI's API, documents and a web page (see serve --help)
  %(prog)s batch scans/ --output read                 millions of pages, on a Ray cluster (see batch --help)
  %(prog)s scans/ --output-dir texts --resume --shard 0/4   the first of four parts, for four processes

exit status: 0 every page was read; 1 some were not (the others are); 2 wrong usage, or a model or device that
cannot be used
"""


class Parser(argparse.ArgumentParser):
    """The parser of a command, which remembers its options and has ``--config`` (see ``settings.py``)."""

    def __init__(self, **arguments: Any) -> None:
        self.options: list[argparse.Action] = []
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **arguments)
        self.add_argument(
            "--config", metavar="FILE", help="settings, such as configs/cpu.yaml; options given here win over it"
        )

    def add_argument(self, *names: Any, **arguments: Any) -> argparse.Action:
        self.options.append(super().add_argument(*names, **arguments))
        return self.options[-1]

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see --help)\n")


def parser() -> Parser:
    """The options."""
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
    parser.add_argument("--image", action="append", default=[], metavar="FILE", help="one more document; may be repeated")
    add_options(parser)
    add_document_options(parser)
    parser.add_argument("--format", choices=FORMATS, default="text", help="output format (default: text)")
    parser.add_argument("--output", metavar="FILE", help="write there instead of to standard output")
    parser.add_argument("--output-dir", metavar="DIR", help="write a file there for each document")
    parser.add_argument(
        "--resume", action="store_true", help="with --output-dir: skip documents whose file is there already"
    )
    parser.add_argument("--visualize", metavar="DIR", help="draw boxes, order and confidence on pages, into this folder")
    parser.add_argument("--stats", action="store_true", help="print the cache's statistics to standard error at the end")
    parser.add_argument("--cache-dir", metavar="DIR", help="keep what the cache holds there, for the next run")
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="with --output-dir: read part I, from 0, of N parts of the documents (default: all; under msrun the worker's "
        "own)",
    )
    parser.add_argument(
        "--tensor-parallel",
        type=int,
        default=1,
        metavar="N",
        help="hold the language model in N parts, under msrun with N workers (default: 1)",
    )
    parser.add_argument("--version", action="version", version=f"mindnlp-ocr {__version__}")
    return parser


def add_document_options(parser: argparse.ArgumentParser) -> None:
    """How documents are opened and their pages read."""
    parser.add_argument(
        "--layout",
        choices=("auto", "lines", "page", "model"),
        default="auto",
        help="lines: find the lines of a page, read each; page: read a page in one request; model: the model finds the "
        "blocks of a page, then reads each (extra mineru); auto: as the checkpoint declares (default: auto)",
    )
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="how pages are read: mineru, nanonets, olmocr, olmocr2, plain, rolmocr, or a YAML file of yours (default: as "
        "the checkpoint declares, or by its name)",
    )
    parser.add_argument(
        "--skip-furniture",
        action="store_true",
        help="leave out page headers, footers, page numbers and marginal text, where the layout tells them (--layout model)",
    )
    parser.add_argument("--pages", metavar="LIST", help="pages of every document, such as 1-3,7 (default: all)")
    parser.add_argument(
        "--dpi", type=float, default=200.0, metavar="N", help="resolution at which PDF pages are rendered (default: 200)"
    )
    parser.add_argument("--password", metavar="TEXT", help="password of encrypted PDF files")
    parser.add_argument(
        "--text-layer",
        choices=("ignore", "prefer", "only"),
        default="ignore",
        help="text that a PDF page already holds: ignore it, prefer it to reading the page, or take nothing else "
        "(default: ignore)",
    )
    parser.add_argument(
        "--min-confidence",
        type=float,
        metavar="P",
        help="mark lines below this confidence, 0 to 1, as doubtful (default: the checkpoint's)",
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which model reads, and how: what :func:`load_model` and :func:`read_pages` take, but for a model in parts."""
    parser.add_argument(
        "--model",
        metavar="PATH",
        help="a Qwen2-VL or Qwen2.5-VL folder, merged .npz or exported folder (default: the built-in small model)",
    )
    parser.add_argument("--lora", metavar="DIR", help="a LoRA adapter of the model, as PEFT saves it")
    parser.add_argument("--device", default="cpu", help="cpu, npu:0 or Ascend (default: cpu)")
    parser.add_argument(
        "--jit-level", choices=("O0", "O1"), default="O0", help="of every graph; O1 fuses operators (default: O0)"
    )
    parser.add_argument(
        "--deterministic", action="store_true", help="the same bits every time on an NPU too (a CPU gives them)"
    )
    parser.add_argument("--memory-limit-gb", type=float, metavar="N", help="bound on an NPU's memory")
    parser.add_argument(
        "--prompt", metavar="TEXT", help="the question to ask of every line or page (default: the checkpoint's own)"
    )
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer (default: the model's own)")
    parser.add_argument("--max-length", type=int, metavar="N", help="tokens of a KV slot, prompt and answer together")
    parser.add_argument("--min-pixels", type=int, metavar="N", help="enlarge smaller images to this area")
    parser.add_argument("--max-pixels", type=int, metavar="N", help="shrink larger images to this area")
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="lines or pages that are read at a time, with the same text (default: up to 16, as the cache has room)",
    )
    parser.add_argument(
        "--cache-size-mb", type=float, metavar="N", help="bound on the KV cache and image features (default: by device)"
    )
    parser.add_argument(
        "--kv-dtype", choices=KV_DTYPES, default="fp32", help="what keys and values are held in (default: fp32)"
    )
    parser.add_argument("--no-kv-cache", action="store_true", help="run the whole prompt again for every token (slow)")
    parser.add_argument(
        "--attn",
        choices=("auto", "eager", "flash"),
        default="auto",
        help="attention: flash (memory grows with the page, not its square), eager (MindSpore's own operators), or auto: "
        "flash where it is supported, but on an NPU eager (default: auto)",
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", *WEIGHT_DTYPES),
        default="auto",
        help="what weights are held in (default: auto, as the checkpoint stores them); int8 rounds, the others give the "
        "text of fp32",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU (default: all cores that the process may use)")
    parser.set_defaults(tensor_parallel=1)


def check(arguments: argparse.Namespace) -> None:
    """Refuse numbers that nothing can be read with."""
    if arguments.max_new_tokens is not None and arguments.max_new_tokens < 1:
        raise SetupError(f"--max-new-tokens is {arguments.max_new_tokens}: give 1 or more")
    if arguments.batch_size is not None and arguments.batch_size < 1:
        raise SetupError(f"--batch-size is {arguments.batch_size}: give 1 or more")
    if not 10 <= getattr(arguments, "dpi", 200) <= 2400:
        raise SetupError(f"--dpi is {arguments.dpi:g}: give 10 to 2400")
    confidence = getattr(arguments, "min_confidence", None)
    if confidence is not None and not 0 <= confidence <= 1:
        raise SetupError(f"--min-confidence is {confidence:g}: give 0 to 1")


def check_parts(arguments: argparse.Namespace) -> None:
    """Refuse what a model in parts does not do yet: each page is one request, of one image file."""
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
            f"with --tensor-parallel images are read whole, as text or json into one file: leave out {', '.join(given)}"
        )
