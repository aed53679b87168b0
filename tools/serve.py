#!/usr/bin/env python3
"""Serve a model over HTTP, as OpenAI's API: `uv run tools/serve.py`. See --help."""

import sys

from mindnlp_ocr.server.command import main

if __name__ == "__main__":
    sys.exit(main())
