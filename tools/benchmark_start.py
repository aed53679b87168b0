#!/usr/bin/env python3
"""Measure the time from a cold start to the first text of a page, compared with `import mindspore`.

uv run tools/benchmark_start.py
uv run tools/benchmark_start.py --runs 9 --image examples/letter.png -- --dtype int8   # options after -- go to infer.py
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from mindnlp_ocr.bench.results import Results, Row

ROOT = Path(__file__).resolve().parent.parent


def seconds(command: list[str]) -> tuple[float, float]:
    """Return the seconds to the first byte on standard output, and to the end of the process."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0) as process:
        assert process.stdout
        if not process.stdout.read(1):
            raise SystemExit(f"error: {command} printed nothing: run it manually to see why")
        first = time.perf_counter() - start
        process.stdout.read()
    return first, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--image", default=str(ROOT / "examples" / "invoice.png"), help="page to read (default: the invoice)"
    )
    parser.add_argument("--runs", type=int, default=5, help="number of runs per process (default: 5)")
    parser.add_argument("options", nargs="*", help="options for infer.py")
    parser.add_argument("--output", help="write the figures to FILE as JSON")
    arguments = parser.parse_args()
    alone = [sys.executable, "-c", "import mindspore; print(flush=True)"]
    page = [sys.executable, str(ROOT / "tools" / "infer.py"), arguments.image, *arguments.options]
    seconds(page)  # loads the files into the page cache
    runs = [(seconds(alone)[0], *seconds(page)) for _ in range(arguments.runs)]
    imported, first, end = (statistics.median(column) for column in zip(*runs, strict=True))
    row: Row = {"page": Path(arguments.image).name, "import_mindspore_s": imported, "first_text_s": first}
    results = Results.start()
    about = "Times of whole processes; beyond_import_s is the time to the first text minus that of `import mindspore` alone."
    results.add("start", "A cold process", [{**row, "beyond_import_s": first - imported, "end_s": end}], about)
    if arguments.output:
        results.save(arguments.output)


if __name__ == "__main__":
    main()
