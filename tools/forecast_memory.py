#!/usr/bin/env python3
"""``mindnlp-ocr forecast`` from a checkout: `uv run tools/forecast_memory.py --help`."""

import sys

from mindnlp_ocr.commands.forecast_memory import main

if __name__ == "__main__":
    sys.exit(main())
