"""What a user may set about the KV cache and attention."""

import math
import shutil
import subprocess
from dataclasses import dataclass

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.ops.device import Device

CPU_CACHE_MB = 512.0
NPU_CACHE_MB = 1024.0
CUDA_FREE_SHARE = 0.2


@dataclass
class CacheConfig:
    """Settings of the KV cache and of flash attention.

    Attributes:
        enable_kv_cache: keep keys and values between the tokens of a text. Off, every token runs the whole prompt again.
        max_cache_size_mb: bound on every byte that the cache holds, in MiB.
        enable_lru: evict the least recently used entry when full.
        cache_ttl_seconds: an entry unused for so long expires.
        enable_flash_attention: use flash attention where it is supported.
        auto_detect_flash_attention: ask the hardware first, and fall back to eager by itself. Off,
            ``enable_flash_attention`` is a demand, and an error where it cannot be met.

    Raises:
        SetupError: a size or a time that is not a positive number.
    """

    enable_kv_cache: bool = True
    max_cache_size_mb: float = 2048.0
    enable_lru: bool = True
    cache_ttl_seconds: float = 300.0
    enable_flash_attention: bool = False
    auto_detect_flash_attention: bool = True

    def __post_init__(self) -> None:
        for name in ("max_cache_size_mb", "cache_ttl_seconds"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value <= 0:
                raise SetupError(f"{name} is {value!r}: give a number above 0")

    @property
    def max_bytes(self) -> float:
        return self.max_cache_size_mb * 2**20


def get_optimal_cache_config(device: str = "cpu", model_size_gb: float = 7.0) -> CacheConfig:
    """The recommended settings for a device.

    Args:
        device: as for ``Qwen2VLModel``.
        model_size_gb: what the model will take of a CUDA device's memory before the cache does.

    Returns:
        1024 MiB on an NPU, 512 MiB on a CPU, and on CUDA a fifth of the memory left free beside the model (512 MiB where
        ``nvidia-smi`` finds no device).
    """
    parsed = Device.parse(device)
    if parsed.kind == "Ascend":
        return CacheConfig(max_cache_size_mb=NPU_CACHE_MB)
    free_mb = _cuda_free_mb(parsed.index) if parsed.kind == "GPU" else None
    if free_mb is None:
        return CacheConfig(max_cache_size_mb=CPU_CACHE_MB)
    return CacheConfig(
        max_cache_size_mb=max(1.0, CUDA_FREE_SHARE * (free_mb - model_size_gb * 1024)), enable_flash_attention=True
    )


def _cuda_free_mb(index: int) -> float | None:
    if not shutil.which("nvidia-smi"):
        return None
    query = ["nvidia-smi", f"--id={index}", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
        return float(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):  # no driver, no such device, "[N/A]"
        return None
