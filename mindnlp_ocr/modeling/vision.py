"""The vision tower, which converts patches into features for the language model.

References: Qwen2-VL (Wang et al. 2024, arXiv:2409.12191) and Qwen2.5-VL (Bai et al. 2025, arXiv:2502.13923). If blocks
have windows, patches and features are ordered window by window (windows.py); the caller restores the order of features.
"""

import mindspore as ms
from mindspore import Tensor, nn

from mindnlp_ocr.architectures import VisionConfig
from mindnlp_ocr.backends.base import Backend, VisionContext
from mindnlp_ocr.modeling.layers import Gate, LayerNorm, Linear, Loader, RMSNorm
from mindnlp_ocr.ops.layout import take_heads
from mindnlp_ocr.ops.norm import NORM_EPS
from mindnlp_ocr.ops.operators import Operators
from mindnlp_ocr.ops.rotary import rotate


class VisionTower(nn.Cell):
    """The vision tower: patches [n, patch_dim] -> features [n / 4, hidden_size], for images packed into a bucket of n
    patches."""

    def __init__(self, config: VisionConfig, weights: Loader, operators: Operators) -> None:
        super().__init__(auto_prefix=False)
        # A convolution whose stride equals its kernel size is a matrix product over flattened patches.
        self.patch_embed = Linear(weights, "visual.patch_embed.proj", operators, no_bias=config.embed_dim)
        self.blocks = nn.CellList(
            [VisionBlock(config, weights, i, operators) for i in range(config.depth)], auto_prefix=False
        )
        self.merger = PatchMerger(config, weights, "visual.merger", operators)

    def construct(
        self, patches: Tensor, cos: Tensor, sin: Tensor, cu_seqlens: Tensor, cu_windows: Tensor | None, backend: Backend
    ) -> tuple[Tensor, ...]:
        """Return the outputs of every part (:meth:`part_names`). The last one contains the features.

        Args:
            patches: float32 [n, patch_dim].
            cos, sin: float32 [n, head_dim / 2].
            cu_seqlens: int32 [images + 1], the start of each image, and the end of the last.
            cu_windows: int32 [windows + 1], the same for windows; None if no block has windows.
        """
        whole = backend.vision_context(cos, sin, cu_seqlens)
        windows = whole
        if cu_windows is not None:
            windows = (whole[0], whole[1], backend.vision_mask(patches.shape[0], cu_windows), whole[3])
        rows = whole[3]
        parts: tuple[Tensor, ...] = (self.patch_embed(patches, rows),)
        for block in self.blocks:
            parts = (*parts, block(parts[-1], windows if block.windowed else whole, backend))
        return (*parts, self.merger(parts[-1], rows))

    def part_names(self) -> list[str]:
        """Return the published names of the parts whose outputs ``construct`` returns."""
        return ["visual.patch_embed", *(f"visual.blocks.{i}" for i in range(len(self.blocks))), "visual.merger"]


class VisionBlock(nn.Cell):
    """A block: attention and MLP, each with a norm before it and a residual connection."""

    def __init__(self, config: VisionConfig, weights: Loader, index: int, operators: Operators) -> None:
        super().__init__(auto_prefix=False)
        name = f"visual.blocks.{index}"
        self.windowed, self.gated = config.windowed(index), config.mlp == "silu_gate"
        self.norm1 = norm(config, weights, f"{name}.norm1", operators)
        self.attn = VisionAttention(config, weights, f"{name}.attn", operators)
        self.norm2 = norm(config, weights, f"{name}.norm2", operators)
        self.mlp = mlp(config, weights, f"{name}.mlp", operators)
        self.eps = Tensor([NORM_EPS], ms.float32)

    def construct(self, x: Tensor, context: VisionContext, backend: Backend) -> Tensor:
        if backend.fuses_vision:
            return backend.vision_block(self, x, context)
        x = self.attn(self.norm1(x), x, context, backend)
        return self.mlp(self.norm2(x), x, context[3])

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the weights in the order of the fused operator."""
        attention = (self.attn.qkv.weight, self.attn.qkv.bias, self.attn.proj.weight, self.attn.proj.bias)
        return self.eps, *self.norm1.tensors(), *attention, *self.norm2.tensors(), *self.mlp.tensors()


class VisionAttention(nn.Cell):
    """Full attention within an image or window with 2-D rotary positions, and a residual connection."""

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


class QuickGeluMLP(nn.Cell):
    """The MLP fc2(quick_gelu(fc1 x)), with a residual connection."""

    def __init__(self, weights: Loader, name: str, operators: Operators) -> None:
        super().__init__(auto_prefix=False)
        self.fc1 = Linear(weights, f"{name}.fc1", operators)
        self.fc2 = Linear(weights, f"{name}.fc2", operators)

    def construct(self, x: Tensor, residual: Tensor, rows: Tensor) -> Tensor:
        return self.fc2.add(self.fc1.quick_gelu(x, rows), residual, rows)

    def tensors(self) -> tuple[Tensor, ...]:
        return self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias


class GatedMLP(nn.Cell):
    """The MLP down(silu(gate x) * up x) with biases, and a residual connection."""

    def __init__(self, weights: Loader, name: str, operators: Operators, inner: int) -> None:
        super().__init__(auto_prefix=False)
        self.gate_up = Gate(weights, name, operators, inner)
        self.down_proj = Linear(weights, f"{name}.down_proj", operators)

    def construct(self, x: Tensor, residual: Tensor, rows: Tensor) -> Tensor:
        return self.down_proj.add(self.gate_up(x, rows), residual, rows)

    def tensors(self) -> tuple[Tensor, ...]:
        return self.gate_up.weight, self.gate_up.bias, self.down_proj.weight, self.down_proj.bias


class PatchMerger(nn.Cell):
    """The patch merger: four neighbouring patches, which are consecutive rows, become one feature of the text's width."""

    def __init__(self, config: VisionConfig, weights: Loader, name: str, operators: Operators) -> None:
        super().__init__(auto_prefix=False)
        self.merged = config.spatial_merge_size**2
        self.merged_dim = config.embed_dim * self.merged
        self.ln_q = norm(config, weights, f"{name}.ln_q", operators)
        self.fc1 = Linear(weights, f"{name}.mlp.0", operators)
        self.fc2 = Linear(weights, f"{name}.mlp.2", operators)

    def construct(self, x: Tensor, rows: Tensor) -> Tensor:
        rows = rows // self.merged
        return self.fc2(self.fc1.gelu(self.ln_q(x).reshape(-1, self.merged_dim), rows), rows)


def norm(config: VisionConfig, weights: Loader, name: str, operators: Operators) -> LayerNorm | RMSNorm:
    """Create a norm of the architecture's kind."""
    if config.norm == "layer":
        return LayerNorm(weights, name, operators)
    return RMSNorm(weights, name, operators, NORM_EPS)


def mlp(config: VisionConfig, weights: Loader, name: str, operators: Operators) -> QuickGeluMLP | GatedMLP:
    """Create an MLP of the architecture's kind."""
    if config.mlp == "quick_gelu":
        return QuickGeluMLP(weights, name, operators)
    return GatedMLP(weights, name, operators, config.mlp_dim)
