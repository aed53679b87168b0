"""Whole graphs around each call of AscendAttention, for export and for the emulated operators. Not a test module: MindSpore
parses the source of a cell, which pytest rewrites in test modules."""

from typing import Any

from mindspore import Parameter, Tensor, nn, ops
from mindspore.ops.auto_generate import KVCacheScatterUpdate, PromptFlashAttention

from mindnlp_ocr.ops import ascend
from mindnlp_ocr.ops.ascend import AscendAttention


class Vision(nn.Cell):
    def __init__(self, attention: AscendAttention) -> None:
        super().__init__(auto_prefix=False)
        self.attention = attention

    def construct(self, q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor) -> Tensor:
        return self.attention.vision(q, k, v, self.attention.vision_mask(q.shape[0], cu_seqlens))


class Prefill(nn.Cell):
    """Without a cache where ``keys`` is None."""

    def __init__(self, attention: AscendAttention, keys: Parameter | None = None, values: Parameter | None = None) -> None:
        super().__init__(auto_prefix=False)
        self.attention, self.keys, self.values = attention, keys, values

    def construct(self, q: Tensor, k: Tensor, v: Tensor, live: Tensor) -> Tensor:
        mask = self.attention.prefill_mask(q.shape[0], live)
        if self.keys is not None:
            self.attention.write_prompt(self.keys, self.values, k, v, None)
        return self.attention.prefill(q, k, v, mask)


def decoded(attention: AscendAttention, q: Tensor, k: Tensor, v: Tensor, keys: Any, values: Any, mask: Any) -> Tensor:
    """One token a slot: q [slots, heads, head_dim], k and v [slots, kv_heads, head_dim]."""
    q, k, v = q.expand_dims(1), k.expand_dims(1), v.expand_dims(1)
    return attention.decode(q, k, v, keys, values, mask).squeeze(1)


class Decode(nn.Cell):
    def __init__(self, attention: AscendAttention, keys: Parameter, values: Parameter, new: int = 1) -> None:
        super().__init__(auto_prefix=False)
        self.attention, self.keys, self.values, self.new = attention, keys, values, new

    def construct(self, q: Tensor, k: Tensor, v: Tensor, live: Tensor) -> Tensor:
        mask = self.attention.decode_mask(self.keys.shape, self.new, live, ops.ones_like(live))
        return decoded(self.attention, q, k, v, self.keys, self.values, mask)


class WithMask(nn.Cell):
    """One kind of work under a mask from outside."""

    def __init__(self, attention: AscendAttention, work: str, keys: Any = None, values: Any = None) -> None:
        super().__init__(auto_prefix=False)
        self.attention, self.work, self.keys, self.values = attention, work, keys, values

    def construct(self, q: Tensor, k: Tensor, v: Tensor, first: Tensor, second: Tensor) -> Tensor:
        if self.work == "vision":
            return self.attention.vision(q, k, v, (first, second))
        if self.work == "prefill":
            return self.attention.prefill(q, k, v, first)
        return decoded(self.attention, q, k, v, self.keys, self.values, (first, second))


class RmsNorm(nn.Cell):
    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        return ascend.rms_norm(x, weight, 1e-6)


class Causal(nn.Cell):
    """PromptFlashAttention itself, for lengths that AscendAttention does not ask for."""

    def __init__(self, heads: int, kv_heads: int, mask: Tensor) -> None:
        super().__init__(auto_prefix=False)
        self.prompt = PromptFlashAttention(heads, 0.25, num_key_value_heads=kv_heads, sparse_mode=3, inner_precise=0)
        self.mask = mask

    def construct(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.prompt(q, k, v, self.mask)


class ReadAfterWrite(nn.Cell):
    """The whole cache after a write, through the parameter rather than through what the write returns."""

    def __init__(self, cache: Parameter) -> None:
        super().__init__(auto_prefix=False)
        self.cache = cache
        self.write = KVCacheScatterUpdate()

    def construct(self, rows: Tensor, new: Tensor) -> Tensor:
        self.write(self.cache, rows, new, -2, "update")
        return ops.identity(self.cache)
