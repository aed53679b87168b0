#!/usr/bin/env python3
"""``mindnlp-ocr selftest`` from a checkout: `uv run tools/selftest.py --help`."""

import sys

from mindnlp_ocr.commands.selftest import main

if __name__ == "__main__":
    sys.exit(main())
