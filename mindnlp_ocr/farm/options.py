"""The options of ``mindnlp-ocr batch``."""

import argparse

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.options import FORMATS, Parser, add_document_options, add_options

EPILOG = """\
examples:
  %(prog)s scans/ --output read                             all documents of a folder, to Parquet
  %(prog)s big.pdf 'more/*.pdf' --output read --format markdown   a Markdown file for each document
  %(prog)s references.parquet --output s3://bucket/read --ray auto   on a cluster, from and to an object store

Run the same line again after whatever has stopped it: what was read is not read again.
exit status: 0 every page was read; 1 some were not (the others are); 2 wrong usage, or a model, a cluster or an output
that cannot be used
"""


def parser() -> Parser:
    """The options."""
    parser = Parser(
        prog="mindnlp-ocr batch",
        description="Read millions of pages on the machines of a Ray cluster, or on this one.",
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
        "--output", required=True, metavar="URI", help="a folder that all machines see, or an object store's"
    )
    parser.add_argument(
        "--format", choices=FORMATS, help="write a file for each document (default: Parquet, a row a page, in pages/)"
    )
    parser.add_argument(
        "--ray", metavar="ADDRESS", help="of a Ray cluster, or auto (default: $RAY_ADDRESS; else Ray is started here)"
    )
    parser.add_argument("--actors", type=int, metavar="N", help="processes with a model (default: as the cluster has room)")
    parser.add_argument(
        "--cpus-per-actor", type=float, default=1, metavar="N", help="CPUs, and threads, of each of them (default: 1)"
    )
    parser.add_argument(
        "--pages-per-task", type=int, default=16, metavar="N", help="pages that are read, and kept, together (default: 16)"
    )
    parser.add_argument(
        "--cost-per-hour", type=float, metavar="N", help="of the cluster: the report says what a million pages cost"
    )
    add_options(parser)
    add_document_options(parser)
    parser.add_argument(
        "--tensor-parallel",
        type=int,
        default=1,
        metavar="N",
        help="hold the language model of each actor in N parts, which take N times its CPUs, or N cards (default: 1)",
    )
    return parser


def check_farm(arguments: argparse.Namespace) -> None:
    """Refuse numbers that nothing can be read with."""
    for name in ("actors", "pages_per_task", "tensor_parallel"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise SetupError(f"--{name.replace('_', '-')} is {value}: give 1 or more")
    if arguments.cpus_per_actor <= 0:
        raise SetupError(f"--cpus-per-actor is {arguments.cpus_per_actor:g}: give more than 0")
    if arguments.threads is not None:
        raise SetupError("--threads is set by --cpus-per-actor in a farm: leave it out")
