#!/usr/bin/env python3
"""``mindnlp-ocr benchmark kv-cache`` from a checkout: `uv run tools/benchmark_kv_cache.py --help`."""

import sys

from mindnlp_ocr.commands.benchmark_kv_cache import main

if __name__ == "__main__":
    sys.exit(main())
