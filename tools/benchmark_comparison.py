#!/usr/bin/env python3
"""``mindnlp-ocr benchmark comparison`` from a checkout: `uv run tools/benchmark_comparison.py --help`."""

import sys

from mindnlp_ocr.commands.benchmark_comparison import main

if __name__ == "__main__":
    sys.exit(main())
