"""What a user may set about the KV cache and attention."""

import math
import shutil
import subprocess
import sys
from dataclasses import dataclass

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.ops.device import Device

KV_DTYPES = ("fp32", "fp16", "bf16")
DEFAULT_SLOTS = 8
SLOT_SHARE = 0.9  # of the budget; the rest is for image features
CPU_CACHE_MB = 512.0
NPU_CACHE_MB = 1024.0
CUDA_FREE_SHARE = 0.2


@dataclass
class CacheConfig:
    """Settings of the KV cache and of flash attention.

    Attributes:
        enable_kv_cache: keep keys and values, between the tokens of a text and between requests. Off, every token runs the
            whole prompt again.
        max_cache_size_mb: bound on every byte that the cache holds, in MiB.
        enable_lru: evict the least recently used entry when full.
        cache_ttl_seconds: an entry unused for so long expires.
        enable_flash_attention: use flash attention where it is supported.
        auto_detect_flash_attention: ask the hardware first, and fall back to eager by itself. Off,
            ``enable_flash_attention`` is a demand, and an error where it cannot be met.
        kv_dtype: "fp32", "fp16" or "bf16": what keys and values are held in. 16 bits take half the memory and round.
        slots: KV slots, each of which holds one request or one cached prefix. None: as many as the budget holds beside some
            room for image features, at most ``most_slots``.
        most_slots: see ``slots``.

    Raises:
        SetupError: a size, a time or a number of slots that is not positive, or an unknown dtype.
    """

    enable_kv_cache: bool = True
    max_cache_size_mb: float = 2048.0
    enable_lru: bool = True
    cache_ttl_seconds: float = 300.0
    enable_flash_attention: bool = False
    auto_detect_flash_attention: bool = True
    kv_dtype: str = "fp32"
    slots: int | None = None
    most_slots: int = DEFAULT_SLOTS

    def __post_init__(self) -> None:
        for name in ("max_cache_size_mb", "cache_ttl_seconds"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value <= 0:
                raise SetupError(f"{name} is {value!r}: give a number above 0")
        if self.kv_dtype not in KV_DTYPES:
            raise SetupError(f"kv_dtype is {self.kv_dtype!r}: give one of {', '.join(KV_DTYPES)}")
        if self.slots is not None and (isinstance(self.slots, bool) or not isinstance(self.slots, int) or self.slots < 1):
            raise SetupError(f"slots is {self.slots!r}: give 1 or more, or None")
        if isinstance(self.most_slots, bool) or not isinstance(self.most_slots, int) or self.most_slots < 1:
            raise SetupError(f"most_slots is {self.most_slots!r}: give 1 or more")

    @property
    def max_bytes(self) -> int:
        return int(min(self.max_cache_size_mb * 2**20, sys.maxsize))

    def slots_of(self, slot_bytes: int, tokens: int) -> int:
        """How many slots of so many bytes, which hold so many tokens, there are to be.

        Raises:
            SetupError: they do not fit the budget.
        """
        slots = self.slots or max(1, min(self.most_slots, int(self.max_bytes * SLOT_SHARE) // slot_bytes))
        if slots * slot_bytes > self.max_bytes:
            needed = math.ceil(slots * slot_bytes / 2**20 * 10) / 10
            raise SetupError(
                f"{slots} KV slot{'s' * (slots > 1)} of {tokens} tokens: {slots * slot_bytes} bytes, max_cache_size_mb is "
                f"{self.max_cache_size_mb:g}: give at least {needed}, or fewer slots, a lower max_length or kv_dtype fp16"
            )
        return slots


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
