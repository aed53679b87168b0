"""Whole graphs around each call of AscendBackend, for export and for the emulated operators. Not a test module: MindSpore
parses the source of a cell, which pytest rewrites in test modules."""

from typing import Any

from mindspore import Parameter, Tensor, nn, ops
from mindspore.ops.auto_generate import PromptFlashAttention

from mindnlp_ocr.backends import ascend
from mindnlp_ocr.backends.ascend import AscendBackend


class Vision(nn.Cell):
    def __init__(self, attention: AscendBackend) -> None:
        super().__init__(auto_prefix=False)
        self.attention = attention

    def construct(self, q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor) -> Tensor:
        return self.attention.vision(q, k, v, self.attention.vision_mask(q.shape[0], cu_seqlens))


class Extend(nn.Cell):
    """New tokens [segments, tokens, heads, head_dim]; of ``new`` tokens a segment in the mask, where that is given."""

    def __init__(self, attention: AscendBackend, keys: Parameter, values: Parameter, new: int = 0) -> None:
        super().__init__(auto_prefix=False)
        self.attention, self.keys, self.values, self.new = attention, keys, values, new

    def construct(self, q: Tensor, k: Tensor, v: Tensor, slots: Tensor, live: Tensor, count: Tensor) -> Tensor:
        mask = self.attention.extend_mask(self.keys.shape, self.new or q.shape[1], (slots, live, count))
        return self.attention.extend(q, k, v, self.keys, self.values, mask)


class WithMask(nn.Cell):
    """Images under cumulative lengths from outside, or, where there are slots, new tokens under a mask from outside."""

    def __init__(self, attention: AscendBackend, keys: Any = None, values: Any = None) -> None:
        super().__init__(auto_prefix=False)
        self.attention, self.keys, self.values = attention, keys, values

    def construct(self, q: Tensor, k: Tensor, v: Tensor, first: Tensor, second: Tensor) -> Tensor:
        if self.keys is None:
            return self.attention.vision(q, k, v, (first, second))
        mask = self.attention.extend_mask(self.keys.shape, q.shape[1], (second, second, ops.ones_like(second)))
        return self.attention.extend(q, k, v, self.keys, self.values, (first, *mask[1:]))


class RmsNorm(nn.Cell):
    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        return ascend.rms_norm(x, weight, 1e-6)


class Prompt(nn.Cell):
    """PromptFlashAttention itself, for arguments that AscendBackend does not give."""

    def __init__(self, heads: int, kv_heads: int, **arguments: Any) -> None:
        super().__init__(auto_prefix=False)
        self.prompt = PromptFlashAttention(
            heads, 0.25, input_layout="BNSD", num_key_value_heads=kv_heads, inner_precise=0, **arguments
        )

    def construct(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return self.prompt(q, k, v, mask)


class Scatter(nn.Cell):
    """ScatterNdUpdate itself, and what the parameter holds then."""

    def __init__(self, cache: Parameter) -> None:
        super().__init__(auto_prefix=False)
        self.cache = cache
        self.write = ops.ScatterNdUpdate()

    def construct(self, at: Tensor, new: Tensor) -> Tensor:
        return self.write(self.cache, at, new)


class ReadOnBothSides(nn.Cell):
    """A parameter read before and after a write, rather than through what the write returns: MindSpore copies it."""

    def __init__(self, cache: Parameter) -> None:
        super().__init__(auto_prefix=False)
        self.cache = cache
        self.write = ops.ScatterNdUpdate()

    def construct(self, at: Tensor, new: Tensor) -> Tensor:
        before = ops.gather_nd(self.cache, at)
        self.write(self.cache, at, new + before)
        return ops.gather_nd(self.cache, at)
