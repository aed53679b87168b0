"""The vision tower: patches in, features the text model can read out.

Reference: Qwen2-VL (Wang et al. 2024, arXiv:2409.12191).
"""

import mindspore as ms
from mindspore import Tensor, nn

from mindnlp_ocr.backends.base import Backend, VisionContext
from mindnlp_ocr.config import VisionConfig
from mindnlp_ocr.modeling.layers import Linear, Loader
from mindnlp_ocr.ops.layout import take_heads
from mindnlp_ocr.ops.norm import LAYER_NORM_EPS
from mindnlp_ocr.ops.operators import Operators
from mindnlp_ocr.ops.rotary import rotate


class VisionTower(nn.Cell):
    """Patches [n, patch_dim] -> features [n / 4, text hidden_size], for images packed into a bucket of n patches."""

    def __init__(self, config: VisionConfig, weights: Loader, operators: Operators) -> None:
        super().__init__(auto_prefix=False)
        # A convolution whose stride is its kernel is a matrix product over flattened patches.
        self.patch_embed = Linear(weights, "visual.patch_embed.proj", operators, no_bias=config.embed_dim)
        self.blocks = nn.CellList(
            [VisionBlock(config, weights, f"visual.blocks.{i}", operators) for i in range(config.depth)], auto_prefix=False
        )
        self.merger = PatchMerger(config, weights, "visual.merger", operators)

    def construct(self, patches: Tensor, cos: Tensor, sin: Tensor, cu_seqlens: Tensor, backend: Backend) -> Tensor:
        """patches float32 [n, patch_dim]; cos, sin [n, head_dim / 2]; cu_seqlens int32 [images + 1]."""
        context = backend.vision_context(cos, sin, cu_seqlens)
        rows = context[3]
        x = self.patch_embed(patches, rows)
        for block in self.blocks:
            x = block(x, context, backend)
        return self.merger(x, rows)


class VisionBlock(nn.Cell):
    """Attention and MLP, each behind a LayerNorm and around a residual."""

    def __init__(self, config: VisionConfig, weights: Loader, name: str, operators: Operators) -> None:
        super().__init__(auto_prefix=False)
        self.norm1 = LayerNorm(weights, f"{name}.norm1", operators)
        self.attn = VisionAttention(config, weights, f"{name}.attn", operators)
        self.norm2 = LayerNorm(weights, f"{name}.norm2", operators)
        self.fc1 = Linear(weights, f"{name}.mlp.fc1", operators)
        self.fc2 = Linear(weights, f"{name}.mlp.fc2", operators)
        self.eps = Tensor([LAYER_NORM_EPS], ms.float32)

    def construct(self, x: Tensor, context: VisionContext, backend: Backend) -> Tensor:
        if backend.fuses_vision:
            return backend.vision_block(self, x, context)
        rows = context[3]
        x = self.attn(self.norm1(x), x, context, backend)
        return self.fc2.add(self.fc1.quick_gelu(self.norm2(x), rows), x, rows)

    def tensors(self) -> tuple[Tensor, ...]:
        """In the order in which a fused operator takes them."""
        return (
            self.eps, self.norm1.weight, self.norm1.bias, self.attn.qkv.weight, self.attn.qkv.bias, self.attn.proj.weight,
            self.attn.proj.bias, self.norm2.weight, self.norm2.bias, self.fc1.weight, self.fc1.bias, self.fc2.weight,
            self.fc2.bias,
        )  # fmt: skip


class VisionAttention(nn.Cell):
    """Full attention among the patches of one image, with 2-D rotary positions; around a residual."""

    def __init__(self, config: VisionConfig, weights: Loader, name: str, operators: Operators) -> None:
        super().__init__(auto_prefix=False)
        self.heads = config.num_heads
        self.head_dim = config.head_dim
        self.qkv = Linear(weights, f"{name}.qkv", operators)
        self.proj = Linear(weights, f"{name}.proj", operators)

    def construct(self, x: Tensor, residual: Tensor, context: VisionContext, backend: Backend) -> Tensor:
        n, (cos, sin, _, rows) = x.shape[0], context
        qkv = self.qkv(x, rows).reshape(n, 3 * self.heads, self.head_dim)
        qk, v = (
            rotate(take_heads(qkv, 0, 2 * self.heads), cos, sin),
            take_heads(qkv, 2 * self.heads, self.heads),
        )
        q, k = take_heads(qk, 0, self.heads), take_heads(qk, self.heads, self.heads)
        y = backend.vision_attention(q, k, v, context).reshape(n, self.heads * self.head_dim)
        return self.proj.add(y, residual, rows)


class PatchMerger(nn.Cell):
    """Four neighbouring patches (they lie side by side in the input) become one feature of the text's width."""

    def __init__(self, config: VisionConfig, weights: Loader, name: str, operators: Operators) -> None:
        super().__init__(auto_prefix=False)
        self.merged = config.spatial_merge_size**2
        self.merged_dim = config.embed_dim * self.merged
        self.ln_q = LayerNorm(weights, f"{name}.ln_q", operators)
        self.fc1 = Linear(weights, f"{name}.mlp.0", operators)
        self.fc2 = Linear(weights, f"{name}.mlp.2", operators)

    def construct(self, x: Tensor, rows: Tensor) -> Tensor:
        rows = rows // self.merged
        return self.fc2(self.fc1.gelu(self.ln_q(x).reshape(-1, self.merged_dim), rows), rows)


class LayerNorm(nn.Cell):
    def __init__(self, weights: Loader, name: str, operators: Operators) -> None:
        super().__init__(auto_prefix=False)
        self.weight, self.bias = weights.vector(f"{name}.weight"), weights.vector(f"{name}.bias")
        self.operators = operators

    def construct(self, x: Tensor) -> Tensor:
        return self.operators.layer_norm(x, self.weight, self.bias)
