"""Reading of millions of pages on a Ray cluster (``mindnlp-ocr batch``)."""

import os

from mindnlp_ocr.cluster.on_ray import prepare

# Ray reads these variables during its import. Without the second one, back-pressure would start only after millions of
# tasks, because tasks are small.
prepare()
os.environ.setdefault("RAY_DATA_DOWNSTREAM_CAPACITY_OBJECT_STORE_BUDGET_UTIL_THRESHOLD", "0")
