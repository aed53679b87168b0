#!/usr/bin/env python3
"""Read millions of pages on a Ray cluster: `uv run tools/batch.py scans/ --output read`. See --help."""

import sys

from mindnlp_ocr.farm.command import main

if __name__ == "__main__":
    sys.exit(main())
