"""Millions of pages on the machines of a Ray cluster: ``mindnlp-ocr batch``."""

import os

from mindnlp_ocr.cluster.on_ray import prepare

# Ray reads these while it is imported, which any module of this package may do. Tasks are so small that Ray Data would not
# hold them back before there are millions.
prepare()
os.environ.setdefault("RAY_DATA_DOWNSTREAM_CAPACITY_OBJECT_STORE_BUDGET_UTIL_THRESHOLD", "0")
