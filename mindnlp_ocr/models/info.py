"""The contents of ``Qwen2VLModel.get_model_info``."""

from typing import Any

from mindnlp_ocr.engine.engine import Engine
from mindnlp_ocr.models.memory import Memory
from mindnlp_ocr.models.network import Network
from mindnlp_ocr.ops import native


def model_info(network: Network, memory: Memory, engine: Engine, max_pixels: int) -> dict[str, Any]:
    """Return the dictionary of :meth:`Qwen2VLModel.get_model_info`."""
    attention = memory.attention
    return {
        "model_name": network.name,
        "device": str(memory.device),
        "kv_cache_enabled": memory.cache.enable_kv_cache,
        "flash_attention_enabled": attention.implementation == "flash",
        "flash_attention_support": attention.flash_supported,
        "flash_attention_reason": attention.reason,
        "attn_implementation": attention.implementation,
        "dtype": network.dtype,
        "weights_mb": round(sum(int(weight.nbytes) for weight in engine.graphs.parameters()) / 2**20, 1),
        "tensor_parallel": network.ranks.count,
        "lora": None if network.adapter is None else str(network.adapter.folder),
        "threads": native.threads(),
        "kv_dtype": memory.kv_dtype,
        "kv_slots": engine.kv.shape[0] if engine.manager is not None else 0,
        "max_length": memory.max_length,
        "max_pixels": max_pixels,
        "compilations": engine.graphs.compilations,
        "compile_seconds": round(engine.graphs.compile_seconds, 3),
    }
