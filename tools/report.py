#!/usr/bin/env python3
"""Write a report from what benchmarks wrote with --output: Markdown, one HTML page that stands alone, and plots.

uv run tools/report.py kv.json comparison.json --output report.md      # also report.html and report/*.svg
"""

import argparse
from pathlib import Path

from mindnlp_ocr.bench.report import write_report
from mindnlp_ocr.bench.results import Results
from mindnlp_ocr.bench.tool import run_tool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", metavar="JSON", help="what a benchmark wrote with --output")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE.md", help="Markdown; the rest stands beside it")
    parser.add_argument("--title", default="Performance", help="of the report (default: Performance)")
    arguments = parser.parse_args()
    if arguments.output.suffix != ".md":
        parser.error(f"--output is {arguments.output}: give a name that ends in .md")
    for path in write_report([Results.load(path) for path in arguments.results], arguments.output, arguments.title):
        print(f"wrote {path}")


if __name__ == "__main__":
    run_tool(main)
