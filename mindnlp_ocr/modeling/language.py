"""The language model: Qwen2 layers with grouped-query attention and M-RoPE, over preallocated KV slots.

New tokens extend their slots: a prompt, the rest of a prompt with a cached prefix, or one token for each of many slots.
Tokens are rows [segments * tokens]; those of a segment belong to one slot.
Reference: Qwen2 (Yang et al. 2024, arXiv:2407.10671) and Qwen2-VL (arXiv:2409.12191).
"""

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindnlp_ocr.backends.base import Backend, StepContext, StepInputs
from mindnlp_ocr.cache.slots import KVSlots
from mindnlp_ocr.config import ModelConfig
from mindnlp_ocr.modeling.layers import Gate, Linear, Loader, RMSNorm
from mindnlp_ocr.modeling.rope import rotary_table
from mindnlp_ocr.ops.layout import take_heads
from mindnlp_ocr.ops.operators import Operators
from mindnlp_ocr.ops.rotary import rotate


class LanguageModel(nn.Cell):
    """The language model: token ids and image features to the logits of the next token.

    ``backend`` runs its layers, and ``kv`` contains the slots.
    """

    def __init__(self, config: ModelConfig, weights: Loader, max_length: int, operators: Operators) -> None:
        super().__init__(auto_prefix=False)
        table = "model.embed_tokens.weight"
        self.embed_tokens = weights.parameter(table, [table], lambda weights: operators.pack_table(weights[table]))
        self.rotary = Rotary(config, max_length)
        self.layers = nn.CellList(
            [DecoderLayer(config, weights, i, operators) for i in range(config.num_hidden_layers)], auto_prefix=False
        )
        self.norm = RMSNorm(weights, "model.norm", operators, config.rms_norm_eps)
        self.operators = operators
        self.one_row = Tensor([1], ms.int32)
        self.tied = config.tie_word_embeddings
        if self.tied:
            self.no_bias = Tensor(np.zeros(config.vocab_size, np.float32))
        else:
            self.lm_head = Linear(weights, "lm_head", operators.for_logits(), no_bias=config.vocab_size)

    def prefill(
        self,
        token_ids: Tensor,
        image_rows: Tensor,
        is_image: Tensor,
        position_ids: Tensor,
        step: StepInputs,
        backend: Backend,
        kv: KVSlots,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Prefill. Returns logits [segments, vocab] for the last token of each segment, and the outputs of every part of the
        network. The tokens of the segments are concatenated without gaps and padded to a bucket of T. Several segments
        require a backend with ``packed_prompts``.

        Args:
            token_ids: int32 [T].
            image_rows: float32 [T, hidden], image features for tokens with ``is_image`` 1.
            is_image: float32 [T, 1], 1 for image tokens, else 0.
            position_ids: int32 [3, T], time, height and width.
            step: segments without tokens come last; their logits are meaningless.
        """
        slots, _, count = step
        x = self.operators.embed(token_ids, self.embed_tokens) * (1.0 - is_image) + image_rows * is_image
        # Logits of all positions would need more memory than the network.
        if slots.shape[0] == 1:
            parts = self.extend(x, position_ids, step, count, backend, kv)
            return self.head(ops.gather(parts[-1], count - 1, 0), self.one_row), parts
        ends = ops.cumsum(count, 0)
        parts = self.extend(x, position_ids, step, ends[-1:], backend, kv)
        brings = (count > 0).astype(ms.int32).sum().astype(ms.int32).reshape(1)
        return self.head(ops.gather(parts[-1], ends - 1, 0), brings), parts

    def decode(
        self, token_ids: Tensor, position_ids: Tensor, step: StepInputs, rows: Tensor, backend: Backend, kv: KVSlots
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Greedy decode step. Returns tokens int32 [1, segments], their log-probabilities float32 [1, segments], and logits
        [segments, vocab].

        Args:
            token_ids, position_ids: int32 [segments], the newest token of each text and its position, equal on all axes.
            step: its ``count`` is 1, or 0 for inactive segments.
            rows: int32 [1], number of active segments; they come first unless the backend orders segments by slot.
        """
        x = self.operators.embed(token_ids, self.embed_tokens)
        position_ids = ops.broadcast_to(position_ids, (3, position_ids.shape[0]))
        logits = self.head(self.extend(x, position_ids, step, rows, backend, kv)[-1], rows)
        tokens, log_probabilities = self.operators.choose(logits)
        return ops.expand_dims(tokens, 0), ops.expand_dims(log_probabilities, 0), logits

    def extend(
        self, x: Tensor, position_ids: Tensor, step: StepInputs, rows: Tensor, backend: Backend, kv: KVSlots
    ) -> tuple[Tensor, ...]:
        """Run all layers on x, float32 [segments * tokens, hidden], of which ``rows`` int32 [1] are not padding.

        Returns:
            The final x, and x after each part of each layer (:meth:`part_names`). A graph drops unused outputs.
        """
        cos, sin = self.rotary(position_ids)
        context = backend.step_context(cos, sin, step, rows, kv.shape)
        parts: tuple[Tensor, ...] = (x,)
        for layer in self.layers:
            parts = (*parts, *layer(parts[-1], context, backend, kv))
        return parts

    def part_names(self, backend: Backend) -> list[str]:
        """Return the published names of the parts whose outputs :meth:`extend` returns."""
        layers = [f"model.layers.{i}" for i in range(len(self.layers))]
        if not backend.fuses_layers:
            layers = [f"{layer}.{part}" for layer in layers for part in ("self_attn", "mlp")]
        return ["model.embed_tokens", *layers]

    def outer_tensors(self) -> tuple[Tensor, ...]:
        """Return the tensors outside of the layers, in the order of the operator for whole decode steps."""
        head, bias = (self.embed_tokens, self.no_bias) if self.tied else (self.lm_head.weight, self.lm_head.bias)
        return self.rotary.cos, self.rotary.sin, self.embed_tokens, self.norm.weight, head, bias, self.norm.eps

    def layer_tensors(self, kv: KVSlots) -> ParameterTuple:
        """Return the weights, keys and values of all layers, in the order of our operators."""
        return ParameterTuple([x for layer in self.layers for x in (*layer.tensors(), *layer.slots(kv))])

    def head(self, x: Tensor, rows: Tensor) -> Tensor:
        x = self.norm(x)
        if self.tied:
            return self.operators.tied_head(x, self.embed_tokens, self.no_bias, rows)
        return self.lm_head(x, rows)


class DecoderLayer(nn.Cell):
    """A decoder layer: attention and a gated MLP, each with an RMSNorm before it and a residual connection."""

    def __init__(self, config: ModelConfig, weights: Loader, index: int, operators: Operators) -> None:
        super().__init__(auto_prefix=False)
        name = f"model.layers.{index}"
        self.index = index
        self.input_layernorm = RMSNorm(weights, f"{name}.input_layernorm", operators, config.rms_norm_eps)
        self.self_attn = Attention(config, weights, f"{name}.self_attn", operators)
        after = f"{name}.post_attention_layernorm"
        self.post_attention_layernorm = RMSNorm(weights, after, operators, config.rms_norm_eps)
        self.mlp = MLP(config, weights, f"{name}.mlp", operators)
        self.eps = self.input_layernorm.eps

    def construct(self, x: Tensor, context: StepContext, backend: Backend, kv: KVSlots) -> tuple[Tensor, ...]:
        """Return x after the attention and after the MLP, or only after the whole layer if one operator runs it."""
        keys, values = self.slots(kv)
        if backend.fuses_layers:
            return (backend.decoder_layer(self, x, keys, values, context),)
        x = self.self_attn(self.input_layernorm(x), x, keys, values, context, backend)
        return x, self.mlp(self.post_attention_layernorm(x), x, context[3])

    def slots(self, kv: KVSlots) -> tuple[Parameter, Parameter]:
        """Return the keys and values of this layer."""
        return kv.keys[self.index], kv.values[self.index]

    def tensors(self) -> tuple[Parameter, ...]:
        """Return the weights in the order of the fused operator."""
        return (
            self.input_layernorm.weight,
            self.self_attn.qkv_proj.weight,
            self.self_attn.qkv_proj.bias,
            self.self_attn.o_proj.weight,
            self.post_attention_layernorm.weight,
            self.mlp.gate_up.weight,
            self.mlp.down_proj.weight,
        )


class Attention(nn.Cell):
    """Grouped-query attention with a residual connection. q, k and v are one product, and q and k are rotated together."""

    def __init__(self, config: ModelConfig, weights: Loader, name: str, operators: Operators) -> None:
        super().__init__(auto_prefix=False)
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.head_dim = config.head_dim
        self.qkv_proj = Linear(weights, [f"{name}.q_proj", f"{name}.k_proj", f"{name}.v_proj"], operators)
        self.o_proj = Linear(weights, f"{name}.o_proj", operators, no_bias=config.hidden_size)

    def construct(
        self, x: Tensor, residual: Tensor, keys: Parameter, values: Parameter, context: StepContext, backend: Backend
    ) -> Tensor:
        cos, sin, _, rows, segments = context
        tokens = x.shape[0] // segments
        qkv = self.qkv_proj(x, rows).reshape(x.shape[0], self.heads + 2 * self.kv_heads, self.head_dim)
        qk = rotate(take_heads(qkv, 0, self.heads + self.kv_heads), cos, sin)
        q, k = take_heads(qk, 0, self.heads), take_heads(qk, self.heads, self.kv_heads)
        v = take_heads(qkv, self.heads + self.kv_heads, self.kv_heads)
        q = q.reshape(segments, tokens, self.heads, self.head_dim)
        k = k.reshape(segments, tokens, self.kv_heads, self.head_dim)
        v = v.reshape(segments, tokens, self.kv_heads, self.head_dim)
        y = backend.step_attention(q, k, v, keys, values, context)
        return self.o_proj.add(y.reshape(x.shape[0], self.heads * self.head_dim), residual, rows)


class MLP(nn.Cell):
    """The MLP down(silu(gate x) * up x), with a residual connection."""

    def __init__(self, config: ModelConfig, weights: Loader, name: str, operators: Operators) -> None:
        super().__init__(auto_prefix=False)
        self.gate_up = Gate(weights, name, operators, config.intermediate_size)
        self.down_proj = Linear(weights, f"{name}.down_proj", operators, no_bias=config.hidden_size)

    def construct(self, x: Tensor, residual: Tensor, rows: Tensor) -> Tensor:
        return self.down_proj.add(self.gate_up(x, rows), residual, rows)


class Rotary(nn.Cell):
    """M-RoPE: each section of the frequencies uses the time, the height or the width position."""

    def __init__(self, config: ModelConfig, max_length: int) -> None:
        super().__init__(auto_prefix=False)
        cos, sin = rotary_table(np.arange(max_length), config.head_dim, config.rope_theta)
        self.cos = Tensor.from_numpy(cos)
        self.sin = Tensor.from_numpy(sin)
        self.time = config.mrope_section[0]
        self.height = self.time + config.mrope_section[1]

    def construct(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return cos and sin, float32 [T, head_dim / 2], of position_ids int32 [3, T]."""
        return self.sections(self.cos, position_ids), self.sections(self.sin, position_ids)

    def sections(self, table: Tensor, position_ids: Tensor) -> Tensor:
        """Return rows of the table [T, head_dim / 2], with the position of its own axis for each section."""
        t, h = self.time, self.height
        rows = ops.gather(table, position_ids, 0)
        return ops.concat((rows[0, :, :t], rows[1, :, t:h], rows[2, :, h:]), -1)
