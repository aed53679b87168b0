"""Create the model and the document reader that command-line options describe."""

import argparse
from typing import Any

from mindnlp_ocr.cache.config import DEFAULT_SLOTS, CacheConfig, get_optimal_cache_config

LINE_SLOTS = 16  # default maximum of lines in a batch, if the memory budget allows: larger batches gain little


def load_model(arguments: argparse.Namespace) -> Any:
    """Load the Qwen2VLModel that the options describe.

    Raises:
        SetupError: the device, the checkpoint or a setting cannot be used.
    """
    from mindnlp_ocr.ops.device import Device

    device = Device.parse(
        arguments.device,
        jit_level=arguments.jit_level,
        deterministic=arguments.deterministic,
        memory_limit_gb=arguments.memory_limit_gb,
    )
    device.check()  # before importing MindSpore, which takes seconds
    from mindnlp_ocr.models.qwen2vl import EMBEDDED, Qwen2VLModel

    size = arguments.cache_size_mb
    if size is None:
        size = get_optimal_cache_config(arguments.device).max_cache_size_mb
    config = CacheConfig(
        enable_kv_cache=not arguments.no_kv_cache,
        max_cache_size_mb=size,
        kv_dtype=arguments.kv_dtype,
        slots=arguments.batch_size if arguments.batch_size and arguments.batch_size > DEFAULT_SLOTS else None,
        most_slots=most_slots(arguments),
    )
    return Qwen2VLModel(
        arguments.model or EMBEDDED,
        device,
        arguments.lora,
        cache_config=config,
        max_length=arguments.max_length,
        max_new_tokens=arguments.max_new_tokens,
        min_pixels=arguments.min_pixels,
        max_pixels=arguments.max_pixels,
        attn=arguments.attn,
        threads=arguments.threads,
        dtype=arguments.dtype,
        tensor_parallel=arguments.tensor_parallel,
    )


def most_slots(arguments: argparse.Namespace) -> int:
    """Return the maximum number of concurrent requests, if the cache's budget has room for their slots."""
    return LINE_SLOTS if arguments.batch_size is None else DEFAULT_SLOTS


def new_reader(model: Any, arguments: argparse.Namespace) -> Any:
    """Create the DocumentReader that the options describe."""
    from mindnlp_ocr.documents.reader import DocumentReader

    return DocumentReader(
        model,
        arguments.layout,
        arguments.prompt,
        arguments.batch_size,
        arguments.max_new_tokens,
        arguments.min_confidence,
        arguments.threads,
        arguments.preset,
        arguments.skip_furniture,
    )
