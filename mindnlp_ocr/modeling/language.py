"""The language model: Qwen2 layers with grouped-query attention and M-RoPE, over preallocated KV slots.

Two ways through the same weights: ``prefill`` takes a whole prompt of one slot, ``decode`` one token of every slot.
Reference: Qwen2 (Yang et al. 2024, arXiv:2407.10671) and Qwen2-VL (arXiv:2409.12191).
"""

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindnlp_ocr.cache.slots import KVSlots
from mindnlp_ocr.modeling.layers import Linear, Weights, parameter
from mindnlp_ocr.modeling.rope import rotary_table
from mindnlp_ocr.models.config import Qwen2VLConfig
from mindnlp_ocr.ops.activation import silu_gate
from mindnlp_ocr.ops.attention import EagerAttention
from mindnlp_ocr.ops.layout import take_heads
from mindnlp_ocr.ops.linear import embed, tied_head
from mindnlp_ocr.ops.norm import rms_norm
from mindnlp_ocr.ops.rotary import per_head, rotate


class LanguageModel(nn.Cell):
    """Token ids and image features to the logits of the next token.

    ``attention`` is the implementation to run on; ``kv`` is None where nothing is cached.
    """

    def __init__(self, config: Qwen2VLConfig, weights: Weights, max_length: int) -> None:
        super().__init__(auto_prefix=False)
        self.embed_tokens = parameter("model.embed_tokens.weight", weights["model.embed_tokens.weight"][None])
        self.rotary = Rotary(config, max_length)
        self.layers = nn.CellList(
            [DecoderLayer(config, weights, i) for i in range(config.num_hidden_layers)], auto_prefix=False
        )
        self.norm = RMSNorm(config, weights, "model.norm")
        self.tied = config.tie_word_embeddings
        if not self.tied:
            self.lm_head = Linear(weights, "lm_head", bias=False)

    def prefill(
        self,
        token_ids: Tensor,
        image_rows: Tensor,
        is_image: Tensor,
        position_ids: Tensor,
        live: Tensor,
        attention: EagerAttention,
        kv: KVSlots | None,
    ) -> Tensor:
        """Logits [1, vocab] after a prompt padded to a bucket of T tokens; its keys and values go to ``kv``.

        Args:
            token_ids: int32 [T].
            image_rows: float32 [T, hidden], the image feature where ``is_image`` is 1.
            is_image: float32 [T, 1], 1 or 0.
            position_ids: int32 [3, T], time, height and width.
            live: int32 [1], tokens that are not padding.
            kv: the slots; written at rows 0..T of slot 0.
        """
        x = embed(token_ids, self.embed_tokens) * (1.0 - is_image) + image_rows * is_image
        cos, sin = self.rotary(position_ids)
        mask = attention.prefill_mask(token_ids.shape[0], live)
        rows = attention.prompt_rows(kv.shape, token_ids.shape[0]) if kv is not None else None
        for layer in self.layers:
            x = layer.prefill(x, cos, sin, attention, mask, kv, rows)
        return self.head(ops.gather(x, live - 1, 0))  # logits of every position would cost more memory than the network

    def decode(
        self, token_ids: Tensor, position_ids: Tensor, live: Tensor, attention: EagerAttention, kv: KVSlots
    ) -> Tensor:
        """Logits [slots, vocab] after one more token in every slot.

        Args:
            token_ids: int32 [slots].
            position_ids: int32 [3, slots].
            live: int32 [slots], tokens that each slot holds already; the new one is written behind them.
        """
        x = embed(token_ids, self.embed_tokens)
        cos, sin = self.rotary(position_ids)
        if attention.decoder_layer is not None:
            for layer in self.layers:
                x = layer.decode_fused(x, cos, sin, attention, kv, live)
            return self.head(x)
        mask = attention.decode_mask(kv.shape, 1, live, ops.ones_like(live))
        for layer in self.layers:
            x = layer.decode(x, cos, sin, attention, mask, kv)
        return self.head(x)

    def head(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        if self.tied:
            return tied_head(x, self.embed_tokens)
        return self.lm_head(x)


class DecoderLayer(nn.Cell):
    """Attention and a gated MLP, each behind an RMSNorm and around a residual."""

    def __init__(self, config: Qwen2VLConfig, weights: Weights, index: int) -> None:
        super().__init__(auto_prefix=False)
        name = f"model.layers.{index}"
        self.index = index
        self.eps = Tensor([config.rms_norm_eps], ms.float32)
        self.input_layernorm = RMSNorm(config, weights, f"{name}.input_layernorm")
        self.self_attn = Attention(config, weights, index)
        self.post_attention_layernorm = RMSNorm(config, weights, f"{name}.post_attention_layernorm")
        self.mlp = MLP(weights, f"{name}.mlp")

    def prefill(
        self, x: Tensor, cos: Tensor, sin: Tensor, attention: EagerAttention, mask: Any, kv: KVSlots | None, rows: Any
    ) -> Tensor:
        x = x + self.self_attn.prefill(self.input_layernorm(x), cos, sin, attention, mask, kv, rows)
        return x + self.mlp(self.post_attention_layernorm(x))

    def decode(self, x: Tensor, cos: Tensor, sin: Tensor, attention: EagerAttention, mask: Any, kv: KVSlots) -> Tensor:
        x = x + self.self_attn.decode(self.input_layernorm(x), cos, sin, attention, mask, kv)
        return x + self.mlp(self.post_attention_layernorm(x))

    def decode_fused(
        self, x: Tensor, cos: Tensor, sin: Tensor, attention: EagerAttention, kv: KVSlots, live: Tensor
    ) -> Tensor:
        """What ``decode`` does, as one operator in place of some 45."""
        return attention.decoder_layer(
            x,
            self.input_layernorm.weight,
            self.self_attn.qkv_proj.weight,
            self.self_attn.qkv_proj.bias,
            self.self_attn.o_proj.weight,
            self.post_attention_layernorm.weight,
            self.mlp.gate_up_proj.weight,
            self.mlp.down_proj.weight,
            cos,
            sin,
            kv.key_rows[self.index],
            kv.value_rows[self.index],
            live,
            self.eps,
        )


class Attention(nn.Cell):
    """Grouped-query attention; one product for q, k and v, one rotation for q and k."""

    def __init__(self, config: Qwen2VLConfig, weights: Weights, index: int) -> None:
        super().__init__(auto_prefix=False)
        name = f"model.layers.{index}.self_attn"
        self.index = index
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.head_dim = config.head_dim
        self.qkv_proj = Linear(weights, [f"{name}.q_proj", f"{name}.k_proj", f"{name}.v_proj"])
        self.o_proj = Linear(weights, f"{name}.o_proj", bias=False)
        self.one_token = ops.ExpandDims()

    def prefill(
        self, x: Tensor, cos: Tensor, sin: Tensor, attention: EagerAttention, mask: Any, kv: KVSlots | None, rows: Any
    ) -> Tensor:
        q, k, v = self.qkv(x, cos, sin)
        if kv is not None:
            attention.write_prompt(kv.key_rows[self.index], kv.value_rows[self.index], k, v, rows)
        return self.o_proj(attention.prefill(q, k, v, mask).reshape(x.shape[0], self.heads * self.head_dim))

    def decode(self, x: Tensor, cos: Tensor, sin: Tensor, attention: EagerAttention, mask: Any, kv: KVSlots) -> Tensor:
        q, k, v = self.qkv(x, cos, sin)
        q, k, v = self.one_token(q, 1), self.one_token(k, 1), self.one_token(v, 1)
        y = attention.decode(q, k, v, kv.key_rows[self.index], kv.value_rows[self.index], mask)
        return self.o_proj(y.reshape(x.shape[0], self.heads * self.head_dim))

    def qkv(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q [tokens, heads, head_dim], k and v [tokens, kv_heads, head_dim]; q and k are turned."""
        qkv = self.qkv_proj(x).reshape(x.shape[0], self.heads + 2 * self.kv_heads, self.head_dim)
        qk = rotate(take_heads(qkv, 0, self.heads + self.kv_heads), cos, sin)
        v = take_heads(qkv, self.heads + self.kv_heads, self.kv_heads)
        return take_heads(qk, 0, self.heads), take_heads(qk, self.heads, self.kv_heads), v


class MLP(nn.Cell):
    """down(silu(gate x) * up x)."""

    def __init__(self, weights: Weights, name: str) -> None:
        super().__init__(auto_prefix=False)
        self.gate_up_proj = Linear(weights, [f"{name}.gate_proj", f"{name}.up_proj"], bias=False)
        self.down_proj = Linear(weights, f"{name}.down_proj", bias=False)
        self.halves = ops.Split(axis=-1, output_num=2)

    def construct(self, x: Tensor) -> Tensor:
        gate, up = self.halves(self.gate_up_proj(x))
        return self.down_proj(silu_gate(gate, up))


class RMSNorm(nn.Cell):
    def __init__(self, config: Qwen2VLConfig, weights: Weights, name: str) -> None:
        super().__init__(auto_prefix=False)
        self.weight = parameter(f"{name}.weight", weights[f"{name}.weight"])
        self.eps = config.rms_norm_eps

    def construct(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class Rotary(nn.Cell):
    """M-RoPE: each section of the frequencies turns by the time, the height or the width position."""

    def __init__(self, config: Qwen2VLConfig, max_length: int) -> None:
        super().__init__(auto_prefix=False)
        cos, sin = rotary_table(np.arange(max_length), config.head_dim, config.rope_theta)
        self.cos = Tensor.from_numpy(cos)
        self.sin = Tensor.from_numpy(sin)
        self.time = config.mrope_section[0]
        self.height = self.time + config.mrope_section[1]
        self.heads = config.num_attention_heads + config.num_key_value_heads  # q and k turn together

    def construct(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """position_ids int32 [3, T] -> cos, sin float32 [T, heads, head_dim / 2]."""
        cos, sin = self.sections(self.cos, position_ids), self.sections(self.sin, position_ids)
        return per_head(cos, self.heads), per_head(sin, self.heads)

    def sections(self, table: Tensor, position_ids: Tensor) -> Tensor:
        """Rows of the table [T, head_dim / 2], each section by its own position."""
        t, h = self.time, self.height
        rows = ops.gather(table, position_ids, 0)
        return ops.concat((rows[0, :, :t], rows[1, :, t:h], rows[2, :, h:]), -1)
