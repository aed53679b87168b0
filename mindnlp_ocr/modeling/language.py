"""The language model: Qwen2 layers with grouped-query attention and M-RoPE, over preallocated KV slots.

Two ways through the same weights: ``prefill`` takes a whole prompt of one slot, ``decode`` one token of every slot.
Reference: Qwen2 (Yang et al. 2024, arXiv:2407.10671) and Qwen2-VL (arXiv:2409.12191).
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindnlp_ocr.cache.slots import KVSlots
from mindnlp_ocr.modeling.layers import Linear, Weights, parameter
from mindnlp_ocr.modeling.rope import rotary_table
from mindnlp_ocr.models.config import Qwen2VLConfig
from mindnlp_ocr.ops.activation import silu_gate
from mindnlp_ocr.ops.attention import decode_attention, decode_mask, prefill_attention, prefill_mask
from mindnlp_ocr.ops.layout import heads_first, take_heads, tokens_first
from mindnlp_ocr.ops.linear import embed, tied_head
from mindnlp_ocr.ops.native import decoder_step
from mindnlp_ocr.ops.norm import rms_norm
from mindnlp_ocr.ops.rotary import per_head, rotate


class LanguageModel(nn.Cell):
    """Token ids and image features to the logits of the next token. ``kv`` is None: nothing is cached."""

    def __init__(self, config: Qwen2VLConfig, weights: Weights, max_length: int, fused: bool) -> None:
        """``fused``: decode with our own operator, one a layer, instead of MindSpore's, some 45 a layer."""
        super().__init__(auto_prefix=False)
        self.embed_tokens = parameter("model.embed_tokens.weight", weights["model.embed_tokens.weight"][None])
        self.rotary = Rotary(config, max_length)
        self.layers = nn.CellList(
            [DecoderLayer(config, weights, i, fused) for i in range(config.num_hidden_layers)], auto_prefix=False
        )
        self.norm = RMSNorm(config, weights, "model.norm")
        self.heads = config.num_attention_heads
        self.fused = fused
        self.tied = config.tie_word_embeddings
        if not self.tied:
            self.lm_head = Linear(weights, "lm_head", bias=False)

    def prefill(
        self, token_ids: Tensor, image_rows: Tensor, is_image: Tensor, position_ids: Tensor, live: Tensor, kv: KVSlots | None
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
        cos, sin = self.rotary(position_ids, 0)
        mask = prefill_mask(self.heads, token_ids.shape[0])
        rows = kv.prompt_rows(token_ids.shape[0]) if kv is not None else None
        for layer in self.layers:
            x = layer.prefill(x, cos, sin, mask, kv, rows)
        return self.head(ops.gather(x, live - 1, 0))  # logits of every position would cost more memory than the network

    def decode(self, token_ids: Tensor, position_ids: Tensor, live: Tensor, kv: KVSlots) -> Tensor:
        """Logits [slots, vocab] after one more token in every slot.

        Args:
            token_ids: int32 [slots].
            position_ids: int32 [3, slots].
            live: int32 [slots], tokens that each slot holds already; the new one is written behind them.
            kv: the slots.
        """
        x = embed(token_ids, self.embed_tokens)
        cos, sin = self.rotary(position_ids, 1)
        if self.fused:
            for layer in self.layers:
                x = layer.decode_fused(x, cos, sin, kv, live)
            return self.head(x)
        rows = kv.next_rows(live)
        mask = decode_mask(self.heads, kv.shape, live + 1)
        for layer in self.layers:
            x = layer.decode(x, cos, sin, mask, kv, rows)
        return self.head(x)

    def head(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        if self.tied:
            return tied_head(x, self.embed_tokens)
        return self.lm_head(x)


class DecoderLayer(nn.Cell):
    """Attention and a gated MLP, each behind an RMSNorm and around a residual."""

    def __init__(self, config: Qwen2VLConfig, weights: Weights, index: int, fused: bool) -> None:
        super().__init__(auto_prefix=False)
        name = f"model.layers.{index}"
        self.index = index
        if fused:
            self.step = decoder_step()
            self.eps = Tensor([config.rms_norm_eps], ms.float32)
        self.input_layernorm = RMSNorm(config, weights, f"{name}.input_layernorm")
        self.self_attn = Attention(config, weights, index)
        self.post_attention_layernorm = RMSNorm(config, weights, f"{name}.post_attention_layernorm")
        self.mlp = MLP(weights, f"{name}.mlp")

    def prefill(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, kv: KVSlots | None, rows: Tensor | None) -> Tensor:
        x = x + self.self_attn.prefill(self.input_layernorm(x), cos, sin, mask, kv, rows)
        return x + self.mlp(self.post_attention_layernorm(x))

    def decode(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, kv: KVSlots, rows: Tensor) -> Tensor:
        x = x + self.self_attn.decode(self.input_layernorm(x), cos, sin, mask, kv, rows)
        return x + self.mlp(self.post_attention_layernorm(x))

    def decode_fused(self, x: Tensor, cos: Tensor, sin: Tensor, kv: KVSlots, live: Tensor) -> Tensor:
        """What ``decode`` does, as one operator."""
        return self.step(
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
        self.slice = ops.Slice()

    def prefill(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, kv: KVSlots | None, rows: Tensor | None) -> Tensor:
        tokens = x.shape[0]
        qk, v = heads_first(self.qkv(x), self.heads + self.kv_heads, self.kv_heads)
        qk = rotate(qk, cos, sin)
        q = self.slice(qk, (0, 0, 0), (self.heads, tokens, self.head_dim))
        k = self.slice(qk, (self.heads, 0, 0), (self.kv_heads, tokens, self.head_dim))
        if kv is not None:
            kv.write(self.index, rows, k, v)
        attended = tokens_first(prefill_attention(q, k, v, mask))
        return self.o_proj(attended.reshape(tokens, self.heads * self.head_dim))

    def decode(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, kv: KVSlots, rows: Tensor) -> Tensor:
        qkv = self.qkv(x)
        qk = rotate(take_heads(qkv, 0, self.heads + self.kv_heads), cos, sin)
        v = take_heads(qkv, self.heads + self.kv_heads, self.kv_heads)
        kv.write(self.index, rows, take_heads(qk, self.heads, self.kv_heads), v)
        q = take_heads(qk, 0, self.heads)
        attended = decode_attention(q, kv.keys(self.index), kv.values(self.index), mask)
        return self.o_proj(attended.reshape(x.shape[0], self.heads * self.head_dim))

    def qkv(self, x: Tensor) -> Tensor:
        """[tokens, heads + 2 kv_heads, head_dim]: q, then k, then v."""
        return self.qkv_proj(x).reshape(x.shape[0], self.heads + 2 * self.kv_heads, self.head_dim)


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

    def construct(self, position_ids: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        """position_ids int32 [3, T] -> cos, sin float32, [heads, T, head_dim / 2] (axis 0) or [T, heads, ...] (axis 1)."""
        cos, sin = self.sections(self.cos, position_ids), self.sections(self.sin, position_ids)
        return per_head(cos, self.heads, axis), per_head(sin, self.heads, axis)

    def sections(self, table: Tensor, position_ids: Tensor) -> Tensor:
        """Rows of the table [T, head_dim / 2], each section by its own position."""
        t, h = self.time, self.height
        rows = ops.gather(table, position_ids, 0)
        return ops.concat((rows[0, :, :t], rows[1, :, t:h], rows[2, :, h:]), -1)
