#!/usr/bin/env python3
"""``mindnlp-ocr convert`` from a checkout: `uv run tools/convert.py --help`."""

import sys

from mindnlp_ocr.commands.convert import main

if __name__ == "__main__":
    sys.exit(main())
