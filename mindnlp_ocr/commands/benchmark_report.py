"""Write a report from the results of benchmarks (--output): Markdown, a self-contained HTML page, and plots.

mindnlp-ocr benchmark report kv.json comparison.json --output report.md      # also report.html and report/*.svg
"""

from collections.abc import Sequence
from pathlib import Path

from mindnlp_ocr.bench.report import write_report
from mindnlp_ocr.bench.results import Results
from mindnlp_ocr.bench.tool import exit_status
from mindnlp_ocr.commands import command_parser


def run(argv: Sequence[str] | None = None) -> None:
    parser = command_parser("benchmark report", __doc__)
    parser.add_argument("results", nargs="+", metavar="JSON", help="results that a benchmark wrote with --output")
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="FILE.md",
        help="Markdown file to write; HTML and plots are written next to it",
    )
    parser.add_argument("--title", default="Performance", help="title of the report (default: Performance)")
    arguments = parser.parse_args(argv)
    if arguments.output.suffix != ".md":
        parser.error(f"--output is {arguments.output}: use a name that ends in .md")
    for path in write_report([Results.load(path) for path in arguments.results], arguments.output, arguments.title):
        print(f"wrote {path}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status."""
    return exit_status(lambda: run(argv))
