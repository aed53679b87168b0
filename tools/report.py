#!/usr/bin/env python3
"""``mindnlp-ocr benchmark report`` from a checkout: `uv run tools/report.py --help`."""

import sys

from mindnlp_ocr.commands.benchmark_report import main

if __name__ == "__main__":
    sys.exit(main())
