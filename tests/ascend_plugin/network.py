"""The whole model over AscendAttention: today's modeling, with its attention exchanged.

Not a test module: MindSpore parses the source of these methods, which pytest rewrites in test modules.
"""

from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, ParameterTuple, Tensor, ops

from mindnlp_ocr.cache.slots import KVSlots
from mindnlp_ocr.modeling import language, vision
from mindnlp_ocr.models import qwen2vl
from mindnlp_ocr.ops.ascend import AscendAttention
from mindnlp_ocr.ops.layout import heads_first, take_heads, tokens_first
from mindnlp_ocr.ops.rotary import rotate


class TextAttention(language.Attention):
    def __init__(self, config: Any, weights: Any, index: int) -> None:
        super().__init__(config, weights, index)
        self.ascend = AscendAttention(self.heads, self.kv_heads, self.head_dim)

    def prefill(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, kv: Any, rows: Any) -> Tensor:
        tokens = x.shape[0]
        qk, v = heads_first(self.qkv(x), self.heads + self.kv_heads, self.kv_heads)
        qk = tokens_first(rotate(qk, cos, sin))
        q, k = take_heads(qk, 0, self.heads), take_heads(qk, self.heads, self.kv_heads)
        v = tokens_first(v)
        self.ascend.write_prompt(kv.key_rows[self.index], kv.value_rows[self.index], k, v)
        attended = self.ascend.prefill(q, k, v, self.ascend.prefill_mask(tokens, None))
        return self.o_proj(attended.reshape(tokens, self.heads * self.head_dim))

    def decode(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Any, kv: Any, rows: Any) -> Tensor:
        qkv = self.qkv(x)
        qk = rotate(take_heads(qkv, 0, self.heads + self.kv_heads), cos, sin)
        q, k = take_heads(qk, 0, self.heads), take_heads(qk, self.heads, self.kv_heads)
        v = take_heads(qkv, self.heads + self.kv_heads, self.kv_heads)
        mask = self.ascend.decode_mask(kv.shape, 1, mask)
        attended = self.ascend.decode(q, k, v, kv.key_rows[self.index], kv.value_rows[self.index], mask)
        return self.o_proj(attended.reshape(x.shape[0], self.heads * self.head_dim))


class ImageAttention(vision.VisionAttention):
    def __init__(self, config: Any, weights: Any, name: str) -> None:
        super().__init__(config, weights, name)
        self.ascend = AscendAttention(self.heads, self.heads, self.head_dim)

    def construct(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        n = x.shape[0]
        qk, v = heads_first(self.qkv(x).reshape(n, 3 * self.heads, self.head_dim), 2 * self.heads, self.heads)
        q, k = self.q_and_k(rotate(qk, cos, sin))
        mask = self.ascend.vision_mask(n, mask)
        return self.proj(self.ascend.vision(tokens_first(q), tokens_first(k), tokens_first(v), mask).reshape(n, -1))


class Slots(KVSlots):
    """Keys and values as AscendAttention takes them: its dtype, [slots, kv_heads, max_length, head_dim]."""

    def __init__(self, config: Any, slots: int, max_length: int) -> None:
        super().__init__(config, slots, max_length)

        def tensors(name: str) -> ParameterTuple:
            layers = range(config.num_hidden_layers)
            return ParameterTuple(
                [Parameter(Tensor(np.zeros(self.shape), ms.float16), name=f"kv.{i}.{name}") for i in layers]
            )

        self.key_rows, self.value_rows = tensors("keys"), tensors("values")


def rows_held(heads: int, kv_shape: Any, live: Tensor) -> Tensor:
    """In place of today's decode mask, which is made of one row more than AscendAttention's."""
    return live - 1


def one_image(heads: int, patches: int, live: Tensor) -> Tensor:
    """In place of today's vision mask."""
    return ops.concat((Tensor([0], ms.int32), live))


def model_over_ascend(monkeypatch: pytest.MonkeyPatch) -> qwen2vl.Qwen2VLModel:
    monkeypatch.setattr(language, "Attention", TextAttention)
    monkeypatch.setattr(language, "decode_mask", rows_held)
    monkeypatch.setattr(vision, "VisionAttention", ImageAttention)
    monkeypatch.setattr(vision, "vision_mask", one_image)
    monkeypatch.setattr(qwen2vl, "KVSlots", Slots)
    return qwen2vl.Qwen2VLModel(attn="eager")
