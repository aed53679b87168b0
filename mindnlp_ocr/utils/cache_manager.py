"""Alias module for ``from mindnlp_ocr.utils.cache_manager import CacheConfig``; the code is in ``mindnlp_ocr.cache``."""

from mindnlp_ocr.cache.config import CacheConfig, get_optimal_cache_config

__all__ = ["CacheConfig", "get_optimal_cache_config"]
