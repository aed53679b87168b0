"""Qwen2-VL in plain PyTorch for batches of images of one size, equivalent to the engine's model.

Parameters have the names of the published checkpoints, so a state dict is a Hugging Face checkpoint. The results agree with
those of transformers to 2e-6 in float32.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PLACED = 4  # number of decoder layers before the states from which `training.places` predicts absolute coordinates


@dataclass(frozen=True)
class Config:
    """The shapes of the built-in checkpoint."""

    vocabulary: int = 8192
    hidden: int = 384
    layers: int = 6
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 64
    intermediate: int = 1024
    rope_theta: float = 1e6
    sections: tuple[int, int, int] = (8, 12, 12)
    eps: float = 1e-6
    vision_hidden: int = 320
    vision_layers: int = 8
    vision_heads: int = 5
    vision_ratio: int = 4
    patch: int = 14
    merge: int = 2
    temporal: int = 2

    @property
    def token(self) -> int:
        """Return the side length of an image token in pixels."""
        return self.patch * self.merge


def patch_order(rows: int, columns: int, merge: int) -> tuple[Tensor, Tensor]:
    """Return row and column of every patch in the image processor's order, in which the patches of a token are adjacent."""
    row = torch.arange(rows).view(rows // merge, 1, merge, 1).expand(-1, columns // merge, merge, merge)
    column = torch.arange(columns).view(1, columns // merge, 1, merge).expand(rows // merge, -1, merge, merge)
    return row.reshape(-1), column.reshape(-1)


def patchify(pictures: Tensor, config: Config) -> Tensor:
    """Convert [batch, 3, height, width] to [batch, patches, 3 * 2 * 14 * 14]; the frame is repeated in time."""
    batch, channels, height, width = pictures.shape
    p, m = config.patch, config.merge
    x = pictures.view(batch, channels, height // p // m, m, p, width // p // m, m, p).permute(0, 2, 5, 3, 6, 1, 4, 7)
    x = x.reshape(batch, -1, channels, 1, p, p).expand(-1, -1, -1, config.temporal, -1, -1)
    return x.reshape(batch, (height // p) * (width // p), -1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class VisionBlock(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.vision_hidden
        self.heads = config.vision_heads
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        inner = width * config.vision_ratio
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, inner), "fc2": nn.Linear(inner, width)})

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, count, width = x.shape
        q, k, v = self.attn["qkv"](self.norm1(x)).view(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v)
        x = x + self.attn["proj"](seen.transpose(1, 2).reshape(batch, count, width))
        inner = self.mlp["fc1"](self.norm2(x))
        return x + self.mlp["fc2"](inner * torch.sigmoid(1.702 * inner))  # type: ignore[no-any-return]


class Norm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight.to(x.dtype)


class Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width, dim, inner = config.hidden, config.head_dim, config.intermediate
        self.config = config
        self.input_layernorm, self.post_attention_layernorm = Norm(width, config.eps), Norm(width, config.eps)
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": nn.Linear(width, config.heads * dim),
                "k_proj": nn.Linear(width, config.kv_heads * dim),
                "v_proj": nn.Linear(width, config.kv_heads * dim),
                "o_proj": nn.Linear(config.heads * dim, width, bias=False),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(width, inner, bias=False),
                "up_proj": nn.Linear(width, inner, bias=False),
                "down_proj": nn.Linear(inner, width, bias=False),
            }
        )

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, past: list[Tensor] | None = None) -> Tensor:
        """Run the block. With ``past``, x also attends to its keys and values, and those of x are appended to it."""
        batch, count, _ = x.shape
        config, parts = self.config, self.self_attn
        y = self.input_layernorm(x)
        q, k, v = (parts[f"{name}_proj"](y).view(batch, count, -1, config.head_dim).transpose(1, 2) for name in "qkv")
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        causal = True
        if past is not None:
            causal = not past
            if past:
                k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
            past[:] = [k, v]
        k, v = (t.repeat_interleave(config.heads // config.kv_heads, 1) for t in (k, v))
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        x = x + parts["o_proj"](seen.transpose(1, 2).reshape(batch, count, -1))
        y = self.post_attention_layernorm(x)
        return x + self.mlp["down_proj"](F.silu(self.mlp["gate_proj"](y)) * self.mlp["up_proj"](y))  # type: ignore[no-any-return]


class States(NamedTuple):
    """What the model computes for a batch.

    Attributes:
        hidden: the last hidden states of the ids after the picture [batch, ids, hidden].
        seen: the image tokens that the vision tower produces [batch, tokens, hidden].
        placed: the hidden states of the image tokens after `PLACED` decoder layers [batch, tokens, hidden].
    """

    hidden: Tensor
    seen: Tensor
    placed: Tensor


class Qwen2VL(nn.Module):
    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = config = config or Config()
        p = config.patch
        kernel = (config.temporal, p, p)
        self.visual: Any = nn.Module()
        self.visual.patch_embed = nn.Module()
        self.visual.patch_embed.proj = nn.Conv3d(3, config.vision_hidden, kernel, kernel, bias=False)
        self.visual.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.vision_layers))
        self.visual.merger = nn.Module()
        self.visual.merger.ln_q = nn.LayerNorm(config.vision_hidden, 1e-6)
        merged = config.vision_hidden * config.merge**2
        self.visual.merger.mlp = nn.Sequential(nn.Linear(merged, merged), nn.GELU(), nn.Linear(merged, config.hidden))
        self.model: Any = nn.Module()
        self.model.embed_tokens = nn.Embedding(config.vocabulary, config.hidden)
        self.model.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.model.norm = Norm(config.hidden, config.eps)
        self.apply(self._initialise)
        for name, parameter in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.data.mul_(1 / math.sqrt(2 * config.layers))
            if name.endswith(("attn.proj.weight", "fc2.weight")):
                parameter.data.mul_(1 / math.sqrt(2 * config.vision_layers))

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding | nn.Conv3d):
            nn.init.normal_(module.weight, std=0.02)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def _vision_rope(self, rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
        dim = self.config.vision_hidden // self.config.vision_heads
        inverse = 1e4 ** (-torch.arange(0, dim // 2, 2, device=device).float() / (dim // 2))
        row, column = (t.to(device).float() for t in patch_order(rows, columns, self.config.merge))
        angle = torch.cat((row[:, None] * inverse, column[:, None] * inverse), -1)
        angle = torch.cat((angle, angle), -1)
        return angle.cos(), angle.sin()

    def rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosine and sine [tokens, head_dim] of positions [3, tokens], in Qwen2-VL's sections of time, height and
        width."""
        dim = self.config.head_dim
        inverse = self.config.rope_theta ** (-torch.arange(0, dim, 2, device=positions.device).float() / dim)
        angle = positions[:, :, None].float() * inverse
        ends = [sum(self.config.sections[:i]) for i in range(4)]
        angle = torch.cat([angle[i, :, ends[i] : ends[i + 1]] for i in range(3)], -1)
        angle = torch.cat((angle, angle), -1)
        return angle.cos(), angle.sin()

    def positions(self, before: int, rows: int, columns: int, after: int, device: torch.device) -> Tensor:
        """Return positions [3, tokens] of text, an image of ``rows`` x ``columns`` tokens, and text."""
        head = torch.arange(before, device=device).expand(3, -1)
        row = torch.arange(rows, device=device)[:, None].expand(rows, columns).reshape(-1)
        column = torch.arange(columns, device=device)[None].expand(rows, columns).reshape(-1)
        picture = torch.stack((torch.zeros_like(row), row, column)) + before
        tail = torch.arange(after, device=device).expand(3, -1) + before + max(rows, columns)
        return torch.cat((head, picture, tail), 1)

    def encode(self, pictures: Tensor) -> Tensor:
        """Return the image tokens [batch, tokens, hidden] of pictures [batch, 3, height, width]."""
        config = self.config
        kernel = self.visual.patch_embed.proj.weight.view(config.vision_hidden, -1)
        x = patchify(pictures, config) @ kernel.t().to(pictures.dtype)
        rows, columns = pictures.shape[2] // config.patch, pictures.shape[3] // config.patch
        cos, sin = (t.to(x.dtype) for t in self._vision_rope(rows, columns, pictures.device))
        for block in self.visual.blocks:
            x = block(x, cos, sin)
        x = self.visual.merger.ln_q(x).view(len(pictures), -1, config.vision_hidden * config.merge**2)
        return self.visual.merger.mlp(x)  # type: ignore[no-any-return]

    def embed(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        return self.model.embed_tokens(ids).to(dtype)  # type: ignore[no-any-return]

    def forward(self, pictures: Tensor, before: Tensor, after: Tensor) -> States:
        """Run pictures [batch, 3, height, width] with ids before [n] and after them [batch, m]."""
        batch, count = after.shape
        seen = self.encode(pictures)
        x = torch.cat((self.embed(before, seen.dtype).expand(batch, -1, -1), seen, self.embed(after, seen.dtype)), 1)
        rows, columns = pictures.shape[2] // self.config.token, pictures.shape[3] // self.config.token
        positions = self.positions(len(before), rows, columns, count, pictures.device)
        cos, sin = (t.to(seen.dtype) for t in self.rope(positions))
        placed = x
        for number, block in enumerate(self.model.layers):
            placed = x if number == PLACED else placed
            x = block(x, cos, sin)
        return States(self.model.norm(x[:, -count:]), seen, placed[:, len(before) : -count])

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden @ self.model.embed_tokens.weight.t().to(hidden.dtype)  # type: ignore[no-any-return]
