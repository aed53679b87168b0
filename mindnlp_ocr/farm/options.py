"""The options of ``mindnlp-ocr batch``."""

import argparse

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.options import FORMATS, Parser, add_document_options, add_options

EPILOG = """\
examples:
  %(prog)s scans/ --output read                             all documents of a folder, to Parquet
  %(prog)s big.pdf 'more/*.pdf' --output read --format markdown   a Markdown file for each document
  %(prog)s references.parquet --output s3://bucket/read --ray auto   on a cluster, from and to an object store

After an interruption, run the same command again: finished pages are not read again.
exit status: 0 all pages were read; 1 some pages could not be read; 2 wrong usage, or a model, a cluster or an output that
cannot be used
"""


def parser() -> Parser:
    """Return the parser of the command."""
    parser = Parser(
        prog="mindnlp-ocr batch",
        description="Read millions of pages on the machines of a Ray cluster, or on this machine.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="documents, folders, patterns, lists (.txt; - for standard input) or references (.jsonl or .parquet with a "
        "column path or uri); local, or URIs such as s3://bucket/folder",
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="URI",
        help="output folder, in an object store or on a disk shared by all machines",
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="write one file per document in this format (default: Parquet files in pages/, one row per page)",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="address of a Ray cluster, or auto (default: $RAY_ADDRESS, else Ray is started on this machine)",
    )
    parser.add_argument("--actors", type=int, metavar="N", help="number of processes with a model (default: as many as fit)")
    parser.add_argument(
        "--cpus-per-actor", type=float, default=1, metavar="N", help="number of CPUs and threads of each (default: 1)"
    )
    parser.add_argument(
        "--pages-per-task", type=int, default=16, metavar="N", help="number of pages per task and Parquet file (default: 16)"
    )
    parser.add_argument(
        "--cost-per-hour", type=float, metavar="N", help="cost of the cluster; the report states the cost of a million pages"
    )
    add_options(parser)
    add_document_options(parser)
    parser.add_argument(
        "--tensor-parallel",
        type=int,
        default=1,
        metavar="N",
        help="split the language model of each actor into N parts, with N times the CPUs, or N cards (default: 1)",
    )
    return parser


def check_farm(arguments: argparse.Namespace) -> None:
    """Check the options of a farm.

    Raises:
        SetupError: a value is out of range, or --threads is given.
    """
    for name in ("actors", "pages_per_task", "tensor_parallel"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise SetupError(f"--{name.replace('_', '-')} is {value}: use 1 or more", code="not_positive")
    if arguments.cpus_per_actor <= 0:
        raise SetupError(f"--cpus-per-actor is {arguments.cpus_per_actor:g}: use more than 0", code="not_positive")
    if arguments.threads is not None:
        raise SetupError("--threads is set by --cpus-per-actor in a farm: leave it out", code="options_conflict")
