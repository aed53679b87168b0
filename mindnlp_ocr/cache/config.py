"""User settings of the KV cache and of flash attention."""

import math
import shutil
import subprocess
import sys
from dataclasses import dataclass

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.ops.device import Device

KV_DTYPES = ("fp32", "fp16", "bf16")
DEFAULT_SLOTS = 8
SLOT_SHARE = 0.9  # share of the budget for KV slots; the rest is for image features
CPU_CACHE_MB = 512.0
NPU_CACHE_MB = 1024.0
CUDA_FREE_SHARE = 0.2


@dataclass
class CacheConfig:
    """Settings of the KV cache and of flash attention.

    Attributes:
        enable_kv_cache: keep keys and values between the tokens of a text and between requests. If False, the whole
            sequence is run again for every token.
        max_cache_size_mb: maximum size of the KV slots and image features together, in MiB.
        enable_lru: evict the least recently used entry when full.
        cache_ttl_seconds: time without use after which an entry expires.
        enable_flash_attention: use flash attention where it is supported.
        auto_detect_flash_attention: fall back to eager attention where the hardware does not support flash attention. If
            False, it is an error if ``enable_flash_attention`` is set and not supported.
        kv_dtype: dtype of keys and values: "fp32", "fp16" or "bf16". The 16-bit dtypes take half the memory and round.
        slots: KV slots, each of which holds one request or one cached prefix. None: as many as fit in 90% of the
            budget, at most ``most_slots``.
        most_slots: maximum number of slots if ``slots`` is None.

    Raises:
        SetupError: a size, a time or a number of slots is not positive, or the dtype is unknown.
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
                raise SetupError(f"{name} is {value!r}: use a number above 0", code="not_positive")
        if self.kv_dtype not in KV_DTYPES:
            raise SetupError(f"kv_dtype is {self.kv_dtype!r}: use one of {', '.join(KV_DTYPES)}", code="kv_dtype_unknown")
        if self.slots is not None and (isinstance(self.slots, bool) or not isinstance(self.slots, int) or self.slots < 1):
            raise SetupError(f"slots is {self.slots!r}: use 1 or more, or None", code="not_positive")
        if isinstance(self.most_slots, bool) or not isinstance(self.most_slots, int) or self.most_slots < 1:
            raise SetupError(f"most_slots is {self.most_slots!r}: use 1 or more", code="not_positive")

    @property
    def max_bytes(self) -> int:
        return int(min(self.max_cache_size_mb * 2**20, sys.maxsize))

    def slots_of(self, slot_bytes: int, tokens: int) -> int:
        """Return the number of slots to allocate.

        Args:
            slot_bytes: size of one slot in bytes.
            tokens: length of one slot, for the message of the error.

        Raises:
            SetupError: the slots exceed the budget.
        """
        slots = self.slots or max(1, min(self.most_slots, int(self.max_bytes * SLOT_SHARE) // slot_bytes))
        if slots * slot_bytes > self.max_bytes:
            needed = math.ceil(slots * slot_bytes / 2**20 * 10) / 10
            raise SetupError(
                f"{slots} KV slot{'s' * (slots > 1)} of {tokens} tokens need {slots * slot_bytes} bytes, but "
                f"max_cache_size_mb is {self.max_cache_size_mb:g}: use at least {needed}, or fewer slots, a lower "
                "max_length or kv_dtype fp16",
                code="kv_slots_over_budget",
            )
        return slots


def get_optimal_cache_config(device: str = "cpu", model_size_gb: float = 7.0) -> CacheConfig:
    """Return the recommended settings for a device.

    Args:
        device: as for ``Qwen2VLModel``.
        model_size_gb: memory of a CUDA device that the model itself needs, in GiB.

    Returns:
        Settings with 1024 MiB on an NPU and 512 MiB on a CPU. On CUDA, the size is a fifth of the free memory less that of
        the model, or 512 MiB if ``nvidia-smi`` finds no device.
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
