"""Read documents with Qwen2-VL and Qwen2.5-VL on MindSpore.

The names below are loaded on first use, so that ``import mindnlp_ocr`` does not import MindSpore.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Qwen2VLModel": "mindnlp_ocr.models.qwen2vl",
    "Reading": "mindnlp_ocr.engine.generate",
    "Request": "mindnlp_ocr.models.requests",
    "SamplingParams": "mindnlp_ocr.sampling",
    "SchedulerConfig": "mindnlp_ocr.engine.scheduler",
    "CacheConfig": "mindnlp_ocr.cache.config",
    "get_optimal_cache_config": "mindnlp_ocr.cache.config",
    "OCRError": "mindnlp_ocr.errors",
    "PageError": "mindnlp_ocr.errors",
    "BatchError": "mindnlp_ocr.errors",
    "SetupError": "mindnlp_ocr.errors",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mindnlp_ocr' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
