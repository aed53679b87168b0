#!/usr/bin/env python3
"""``mindnlp-ocr evaluate`` from a checkout: `uv run tools/evaluate.py --help`."""

import sys

from mindnlp_ocr.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
