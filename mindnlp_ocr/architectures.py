"""The supported architectures, by the model_type of config.json.

They differ only in the vision tower: its sizes, norms and MLP, and the attention windows of its blocks. The names of the
weights (weights/names.py) and the modules of the tower (modeling/vision.py) depend on this. The language model, the
positions of tokens (M-RoPE), the patches and the chat template are the same: Qwen2.5-VL changes time positions only for
videos, which are not supported.

Sources: Qwen2-VL (Wang et al. 2024, arXiv:2409.12191); Qwen2.5-VL (Bai et al. 2025, arXiv:2502.13923); the names in
config.json and the order of the patches: transformers 4.57.6, models/qwen2_5_vl.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# Limits far above any checkpoint: invalid configurations are rejected before lists and arrays of these sizes are created.
Size = Annotated[int, Field(gt=0, le=2**24)]
Layers = Annotated[int, Field(gt=0, le=1024)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

Norm = Literal["layer", "rms"]
Mlp = Literal["quick_gelu", "silu_gate"]


class VisionConfig(BaseModel):
    """The vision tower: a ViT over 14 x 14 patches with 2-D rotary positions.

    Attributes:
        embed_dim: width of the blocks.
        hidden_size: width after the merger, equal to that of the language model.
        norm: normalization of the blocks and the merger.
        mlp: kind of MLP in the blocks.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    norm: ClassVar[Norm]
    mlp: ClassVar[Mlp]

    depth: Layers
    embed_dim: Size
    hidden_size: Size
    num_heads: Size
    patch_size: Size = 14
    spatial_merge_size: Size = 2
    temporal_patch_size: Size = 2
    in_channels: Literal[3] = 3

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.num_heads

    @property
    def mlp_dim(self) -> int:
        """Width of the MLP's hidden layer."""
        raise NotImplementedError

    @property
    def patch_dim(self) -> int:
        """Number of values of a flattened patch: channels x time x height x width."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def window(self) -> int:
        """Side length of a window in merged patches; 0 if no block has windows."""
        return 0

    def windowed(self, block: int) -> bool:
        """Return whether a block attends within windows instead of whole images."""
        return False

    @model_validator(mode="after")
    def _sizes_fit(self) -> "VisionConfig":
        if self.embed_dim % self.num_heads or self.head_dim % 4:
            raise ValueError(
                f"embed_dim {self.embed_dim} over {self.num_heads} heads does not give a head size that is a multiple of 4"
            )
        return self


class Qwen2Vision(VisionConfig):
    """The vision tower of Qwen2-VL: every patch attends to all patches of its image."""

    norm: ClassVar[Norm] = "layer"
    mlp: ClassVar[Mlp] = "quick_gelu"

    mlp_ratio: Positive = 4
    hidden_act: Literal["quick_gelu"] = "quick_gelu"

    @property
    def mlp_dim(self) -> int:
        return int(self.embed_dim * self.mlp_ratio)


class Qwen25Vision(VisionConfig):
    """The vision tower of Qwen2.5-VL: most blocks attend within windows. Sizes have other names in config.json."""

    norm: ClassVar[Norm] = "rms"
    mlp: ClassVar[Mlp] = "silu_gate"

    embed_dim: Size = Field(alias="hidden_size")
    hidden_size: Size = Field(alias="out_hidden_size")
    intermediate_size: Size
    window_size: Size = 112  # side length in pixels
    fullatt_block_indexes: tuple[int, ...] = (7, 15, 23, 31)  # indices of the blocks without windows
    hidden_act: Literal["silu"] = "silu"

    @property
    def mlp_dim(self) -> int:
        return self.intermediate_size

    @property
    def window(self) -> int:
        return self.window_size // (self.patch_size * self.spatial_merge_size)

    def windowed(self, block: int) -> bool:
        return block not in self.fullatt_block_indexes

    @model_validator(mode="after")
    def _windows_fit(self) -> "Qwen25Vision":
        merged = self.patch_size * self.spatial_merge_size
        if self.window_size % merged:
            raise ValueError(f"window_size {self.window_size} is not a multiple of {merged}, the pixels of a merged patch")
        return self


@dataclass(frozen=True)
class Architecture:
    """A family of checkpoints.

    Attributes:
        name: name of the architecture.
        model_type: its name in config.json.
        vision: class for its vision_config.
    """

    name: str
    model_type: str
    vision: type[VisionConfig]


ARCHITECTURES: dict[str, Architecture] = {
    architecture.model_type: architecture
    for architecture in (
        Architecture("Qwen2-VL", "qwen2_vl", Qwen2Vision),
        Architecture("Qwen2.5-VL", "qwen2_5_vl", Qwen25Vision),
    )
}
