#!/usr/bin/env python3
"""Read the text of images: `uv run tools/infer.py page.png`. See --help."""

import sys

from mindnlp_ocr.cli import main

if __name__ == "__main__":
    sys.exit(main())
