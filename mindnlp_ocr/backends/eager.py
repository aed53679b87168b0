"""Attention with MindSpore's own operators. This is the reference implementation of a backend.

Scores are scaled by 1 / sqrt(head_dim). For grouped-query attention, key-value heads are not repeated: the query heads of a
group are rows of one product with their shared key-value head (Ainslie et al. 2023, arXiv:2305.13245).
"""

import math
from typing import Any

import mindspore as ms
from mindspore import Parameter, Tensor, ops

from mindnlp_ocr.backends.base import Backend, StepContext, StepInputs, VisionContext
from mindnlp_ocr.ops.layout import heads_first, tokens_first
from mindnlp_ocr.ops.rotary import per_head

MASKED = -1e30  # finite, so that a row in which all keys are masked does not become NaN

_scores = ops.BatchMatMul(transpose_b=True)
_weighted = ops.BatchMatMul()
_softmax = ops.Softmax(axis=-1)
_concat = ops.Concat(axis=-1)
_scatter = ops.ScatterUpdate()


class EagerBackend(Backend):
    """Attention with materialized scores, in O(tokens^2) memory.

    Keys and values of the slots are [slots * kv_heads * max_length, head_dim]; token t of head h in slot s is row
    (s * kv_heads + h) * max_length + t. Results for padding are finite but meaningless.
    """

    def slot_tensor(self, x: Tensor) -> Tensor:
        """Convert keys or values [slots, kv_heads, max_length, head_dim] into the shape of the slots."""
        return x.reshape(-1, x.shape[3])

    # Packed images

    def vision_context(self, cos: Tensor, sin: Tensor, cu_seqlens: Tensor) -> VisionContext:
        mask = self.vision_mask(cos.shape[0], cu_seqlens)
        pairs = 2 * self.heads  # q and k are rotated together
        return per_head(cos, pairs), per_head(sin, pairs), mask, cu_seqlens[-1:]

    def vision_attention(self, q: Tensor, k: Tensor, v: Tensor, context: VisionContext) -> Tensor:
        return self.vision(q, k, v, context[2])

    def vision_mask(self, patches: int, cu_seqlens: Tensor) -> Any:
        """Return the mask for :meth:`vision`. cu_seqlens int32 [images + 1]: the start of each image or window, and the end
        of the last.

        The mask is part of the product of q and k, as an additional column for each image: q is 1 in the column of its own
        image, and k is MASKED in the columns of all other images. Adding a mask of patches^2 elements would cost half as
        much as the product itself.
        """
        index = ops.range(0, patches, 1).reshape(patches, 1)
        own = ops.logical_and(index >= cu_seqlens[:-1], index < cu_seqlens[1:]).astype(ms.float32)
        shape = (self.heads, patches, own.shape[1])
        return ops.broadcast_to(own, shape), ops.broadcast_to((1.0 - own) * MASKED, shape)

    def vision(self, q: Tensor, k: Tensor, v: Tensor, mask: Any) -> Tensor:
        """Attention of every patch to all patches of its own image.

        Args:
            q, k, v: [patches, heads, head_dim].
            mask: from :meth:`vision_mask`.
        Returns:
            [patches, heads, head_dim].
        """
        scale = 1.0 / math.sqrt(q.shape[2])
        q, k, v = heads_first(q * scale), heads_first(k), heads_first(v)
        return tokens_first(_weighted(_softmax(_scores(_concat((q, mask[0])), _concat((k, mask[1])))), v))

    # New tokens over the slots

    def step_context(
        self, cos: Tensor, sin: Tensor, step: StepInputs, rows: Tensor, kv_shape: tuple[int, int, int, int]
    ) -> StepContext:
        segments, heads = step[0].shape[0], self.heads + self.kv_heads  # q and k are rotated together
        mask = self.extend_mask(kv_shape, cos.shape[0] // segments, step)
        return per_head(cos, heads), per_head(sin, heads), mask, rows, segments

    def step_attention(
        self, q: Tensor, k: Tensor, v: Tensor, keys: Parameter, values: Parameter, context: StepContext
    ) -> Tensor:
        return self.extend(q, k, v, keys, values, context[2])

    def extend_mask(self, kv_shape: tuple[int, int, int, int], tokens: int, step: StepInputs) -> Any:
        """Return the mask for :meth:`extend` with up to ``tokens`` new tokens per segment. See :meth:`step_context`."""
        _, kv_heads, length, _ = kv_shape
        slots, cached, count = step
        segments = slots.shape[0]
        index = ops.range(0, tokens, 1).astype(ms.int32).reshape(1, tokens)
        cached, count = cached.reshape(segments, 1), count.reshape(segments, 1)
        # Padding repeats the value and position of the last new token. An inactive segment repeats a token of an active one,
        # because its own slot may be written by another segment. If all are inactive, the slots do not change.
        order = ops.range(0, segments, 1).astype(ms.int32).reshape(segments, 1)
        segment = ops.select(count > 0, order, ops.broadcast_to(ops.argmax(count, 0).astype(ms.int32), (segments, 1)))
        last = ops.maximum(ops.gather(count, segment.reshape(-1), 0) - 1, 0)
        token = ops.minimum(index, last)
        slot, start = (ops.gather(x.reshape(-1), segment, 0) for x in (slots, cached))
        at = ops.minimum(start + token, length - 1).reshape(segments, tokens, 1)
        heads = slot * kv_heads + ops.range(0, kv_heads, 1).astype(ms.int32).reshape(1, kv_heads)
        rows = (heads.reshape(segments, 1, kv_heads) * length + at).reshape(-1)
        source = (segment * tokens + token).reshape(-1)
        fresh = ops.broadcast_to(count.max() > 0, (segments * tokens * kv_heads, 1))
        seen = (cached + index + 1).reshape(segments, 1, tokens, 1, 1)
        hidden = (ops.range(0, length, 1).reshape(1, 1, 1, 1, length) >= seen).astype(ms.float32) * MASKED
        group = self.heads // kv_heads
        hidden = ops.broadcast_to(hidden, (segments, kv_heads, tokens, group, length))
        return rows, source, fresh, slots, hidden.reshape(segments, kv_heads, tokens * group, length)

    def extend(self, q: Tensor, k: Tensor, v: Tensor, keys: Parameter, values: Parameter, mask: Any) -> Tensor:
        """Causal attention of new tokens to their slot and to one another. Writes k and v to the slots in place.

        A prompt is one segment with many tokens; a decode step has many segments with one token each.

        Args:
            q: [segments, tokens, heads, head_dim].
            k, v: [segments, tokens, kv_heads, head_dim], appended to the slots.
            keys, values: keys and values of all slots, float32 or float16, in the shape of :meth:`slot_tensor`. On a CPU,
                MindSpore 2.7.2 has no gather and scatter for bfloat16.
            mask: from :meth:`extend_mask`.
        Returns:
            [segments, tokens, heads, head_dim].
        """
        rows, source, fresh, slots, hidden = mask
        segments, tokens, heads, head_dim = q.shape
        kv_heads, length, group = k.shape[2], hidden.shape[3], heads // k.shape[2]
        # Read the result of the write: a parameter that is read both before and after a write would be copied.
        keys, values = (self.written(keys, k, rows, source, fresh), self.written(values, v, rows, source, fresh))
        keys, values = (ops.gather(x.reshape(-1, kv_heads, length, head_dim), slots, 0) for x in (keys, values))
        q = (q * (1.0 / math.sqrt(head_dim))).reshape(segments, tokens, kv_heads, group, head_dim)
        q = ops.transpose(q, (0, 2, 1, 3, 4)).reshape(segments, kv_heads, tokens * group, head_dim)
        scores = _softmax(_scores(q, keys.astype(q.dtype)) + hidden)
        y = _weighted(scores, values.astype(q.dtype))
        y = ops.transpose(y.reshape(segments, kv_heads, tokens, group, head_dim), (0, 2, 1, 3, 4))
        return y.reshape(segments, tokens, heads, head_dim)

    def written(self, held: Parameter, new: Tensor, rows: Tensor, source: Tensor, fresh: Tensor) -> Tensor:
        """Write [segments, tokens, kv_heads, head_dim] to ``held`` for :meth:`extend`, and return ``held``."""
        new = ops.gather(new.reshape(-1, new.shape[2], new.shape[3]), source, 0).reshape(-1, new.shape[3])
        old = ops.gather(held, rows, 0)
        return _scatter(held, rows, ops.select(ops.broadcast_to(fresh, new.shape), new.astype(held.dtype), old))

    def score_bytes(self, tokens: int) -> int:
        """Return the peak size of tokens^2 float32 scores and their softmax in bytes."""
        return 2 * self.heads * tokens * tokens * 4
