"""The architectures whose checkpoints are read, by the model_type of config.json.

They differ in the vision tower alone: its sizes, its norms, its MLP, and which patches see one another in which block. The
names of the weights follow from that (weights/names.py), and so does what the tower is built of (modeling/vision.py). The
language model, the positions of tokens (M-RoPE), the patches and the chat template are the same: Qwen2.5-VL counts time
otherwise for videos only, which are not read.

Sources: Qwen2-VL (Wang et al. 2024, arXiv:2409.12191); Qwen2.5-VL (Bai et al. 2025, arXiv:2502.13923); the names in
config.json and the order of the patches: transformers 4.57.6, models/qwen2_5_vl.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# Bounds far above any checkpoint: a config that lies is refused before lists and arrays are made of it.
Size = Annotated[int, Field(gt=0, le=2**24)]
Layers = Annotated[int, Field(gt=0, le=1024)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

Norm = Literal["layer", "rms"]
Mlp = Literal["quick_gelu", "silu_gate"]


class VisionConfig(BaseModel):
    """The vision tower: a ViT over 14 x 14 patches with 2-D rotary positions.

    Attributes:
        embed_dim: width of the blocks.
        hidden_size: width after the merger: the text model's.
        norm: of every block and of the merger.
        mlp: of every block.
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
        """Inner values of the MLP."""
        raise NotImplementedError

    @property
    def patch_dim(self) -> int:
        """Values in one flattened patch: channels x time x height x width."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def window(self) -> int:
        """Merged patches along each side of a window; 0: no block has windows."""
        return 0

    def windowed(self, block: int) -> bool:
        """Whether the patches of a block see those of their window alone, in place of those of their image."""
        return False

    @model_validator(mode="after")
    def _sizes_fit(self) -> "VisionConfig":
        if self.embed_dim % self.num_heads or self.head_dim % 4:
            raise ValueError(f"embed_dim {self.embed_dim} over {self.num_heads} heads is not a multiple of 4 a head")
        return self


class Qwen2Vision(VisionConfig):
    """Qwen2-VL's: every patch sees all patches of its image."""

    norm: ClassVar[Norm] = "layer"
    mlp: ClassVar[Mlp] = "quick_gelu"

    mlp_ratio: Positive = 4
    hidden_act: Literal["quick_gelu"] = "quick_gelu"

    @property
    def mlp_dim(self) -> int:
        return int(self.embed_dim * self.mlp_ratio)


class Qwen25Vision(VisionConfig):
    """Qwen2.5-VL's: in most blocks a patch sees those of its window alone. Sizes have other names in config.json."""

    norm: ClassVar[Norm] = "rms"
    mlp: ClassVar[Mlp] = "silu_gate"

    embed_dim: Size = Field(alias="hidden_size")
    hidden_size: Size = Field(alias="out_hidden_size")
    intermediate_size: Size
    window_size: Size = 112  # pixels along each side
    fullatt_block_indexes: tuple[int, ...] = (7, 15, 23, 31)  # of the blocks without windows
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
        name: as its authors call it.
        model_type: as config.json calls it.
        vision: what its config.json says of the vision tower, typed and checked.
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
