"""Millions of pages on the machines of a Ray cluster: ``mindnlp-ocr batch``."""

import os

# Ray reads these while it is imported, which any module of this package may do. Workers use this environment; under
# `uv run` they would make one of their own, without Ray. Tasks are so small that Ray Data would not hold them back before
# there are millions.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_DATA_DOWNSTREAM_CAPACITY_OBJECT_STORE_BUDGET_UTIL_THRESHOLD", "0")
