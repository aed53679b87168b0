"""The cache's memory plan: dtype, number and size of the KV slots, and the objects that manage them."""

import math
from typing import NamedTuple

from mindnlp_ocr.backends import select
from mindnlp_ocr.backends.select import Attention, AttentionChoice, Backends
from mindnlp_ocr.cache.config import CacheConfig
from mindnlp_ocr.cache.manager import CacheManager
from mindnlp_ocr.cache.slots import KVSlots
from mindnlp_ocr.config import ModelConfig
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.ops.device import Device
from mindnlp_ocr.weights.split import RankConfig

DEFAULT_BATCH_SIZE = 8


class Memory(NamedTuple):
    """The memory plan of a model on a device, with an attention implementation."""

    config: ModelConfig
    device: Device
    max_length: int
    cache: CacheConfig
    attention: AttentionChoice

    @classmethod
    def planned(
        cls,
        config: ModelConfig,
        rank_config: ModelConfig,
        device: Device,
        max_length: int,
        cache: CacheConfig,
        asked: Attention,
    ) -> "Memory":
        """Make a plan from the settings.

        Args:
            config: configuration of the whole network.
            rank_config: configuration of the part that this process computes.

        Raises:
            SetupError: the requested attention is not available, or the slots do not fit.
        """
        dims = (config.head_dim, config.vision.head_dim)
        enable, automatic = cache.enable_flash_attention, cache.auto_detect_flash_attention
        attention = select.choose_attention(device, asked, dims, enable, automatic)
        plan = cls(rank_config, device, max_length, cache, attention)
        assert plan.slots > 0  # raises SetupError if they do not fit
        return plan

    @property
    def kv_dtype(self) -> str:
        return select.kv_dtype_for(self.device, self.attention.implementation, self.cache.kv_dtype)

    @property
    def item_bytes(self) -> int:
        return KVSlots.item_bytes(self.kv_dtype)

    @property
    def slot_bytes(self) -> int:
        return KVSlots.bytes_needed(self.config, 1, self.max_length, self.item_bytes)

    @property
    def slots(self) -> int:
        """Number of slots; 1 if the cache is off. Errors as :meth:`CacheConfig.slots_of`."""
        return self.cache.slots_of(self.slot_bytes, self.max_length) if self.cache.enable_kv_cache else 1

    def batch_size(self, asked: int | None, slots: int) -> int:
        """Return the batch size: as requested, or up to 8.

        Raises:
            SetupError: the requested batch size is less than 1, or more than the number of slots.
        """
        if asked is None:
            return min(DEFAULT_BATCH_SIZE, slots)
        if asked < 1:
            raise SetupError(f"batch_size is {asked}: use 1 or more", code="not_positive")
        if asked > slots:
            needed = asked * self.slot_bytes
            raise SetupError(
                f"batch_size is {asked}, but there are only {slots} KV slots: use at most {slots}, or "
                f"CacheConfig(slots={asked}) and a max_cache_size_mb of at least {math.ceil(needed / 2**20)}",
                code="batch_over_slots",
            )
        return asked

    @property
    def attention_dtype(self) -> str | None:
        return select.attention_dtype_for(self.device, self.attention.implementation, self.kv_dtype)

    def same_attention(self, other: "Memory") -> bool:
        """Return whether both plans use the same attention operators."""
        ours, theirs = self.attention.implementation, other.attention.implementation
        return (ours, self.attention_dtype) == (theirs, other.attention_dtype)

    def new_backends(self) -> Backends:
        whole = not isinstance(self.config, RankConfig)  # a fused layer leaves no place for the sum over ranks
        return select.backends_for(self.device, self.attention.implementation, self.config, self.attention_dtype, whole)

    def same_slots(self, other: "Memory") -> bool:
        """Return whether the contents of the slots are valid under both plans."""
        return (
            self.attention.implementation == other.attention.implementation
            and self.cache.enable_kv_cache == other.cache.enable_kv_cache
            and self.kv_dtype == other.kv_dtype
        )

    def new_kv(self, backends: Backends) -> KVSlots:
        shared = not self.cache.enable_kv_cache
        return KVSlots(self.config, self.slots, self.max_length, backends.text, self.kv_dtype, shared)

    def new_manager(self) -> CacheManager | None:
        """Return a new cache manager; None if the cache is off."""
        cache = self.cache
        if not cache.enable_kv_cache:
            return None
        return CacheManager(
            self.slots, self.slot_bytes, cache.max_bytes, lru=cache.enable_lru, ttl_seconds=cache.cache_ttl_seconds
        )
