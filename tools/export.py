#!/usr/bin/env python3
"""``mindnlp-ocr export`` from a checkout: `uv run tools/export.py --help`."""

import sys

from mindnlp_ocr.commands.export import main

if __name__ == "__main__":
    sys.exit(main())
