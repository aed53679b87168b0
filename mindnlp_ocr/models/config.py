"""A checkpoint's ``config.json`` as typed, checked values."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from mindnlp_ocr.errors import SetupError


class VisionConfig(BaseModel):
    """The vision tower: a ViT over 14 x 14 patches with 2-D rotary positions."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    depth: PositiveInt
    embed_dim: PositiveInt
    hidden_size: PositiveInt  # width after the merger: the text model's
    num_heads: PositiveInt
    mlp_ratio: PositiveFloat = 4
    patch_size: PositiveInt = 14
    spatial_merge_size: PositiveInt = 2
    temporal_patch_size: PositiveInt = 2
    in_channels: Literal[3] = 3
    hidden_act: Literal["quick_gelu"] = "quick_gelu"

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.num_heads

    @property
    def mlp_dim(self) -> int:
        return int(self.embed_dim * self.mlp_ratio)

    @property
    def patch_dim(self) -> int:
        """Values in one flattened patch: channels x time x height x width."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @model_validator(mode="after")
    def _sizes_fit(self) -> "VisionConfig":
        if self.embed_dim % self.num_heads or self.head_dim % 4:
            raise ValueError(f"embed_dim {self.embed_dim} over {self.num_heads} heads is not a multiple of 4 a head")
        return self


class Qwen2VLConfig(BaseModel):
    """The language model and its vision tower, as published for Qwen2-VL."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    vision: VisionConfig
    vocab_size: PositiveInt
    hidden_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt
    intermediate_size: PositiveInt
    max_position_embeddings: PositiveInt
    rms_norm_eps: PositiveFloat = 1e-6
    rope_theta: PositiveFloat = 1e6
    mrope_section: tuple[PositiveInt, PositiveInt, PositiveInt]
    tie_word_embeddings: bool = False
    hidden_act: Literal["silu"] = "silu"
    image_token_id: int = Field(ge=0)
    video_token_id: int = Field(ge=0)
    vision_start_token_id: int = Field(ge=0)
    eos_token_ids: tuple[int, ...] = Field(min_length=1)

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of float32 keys and values that one token keeps over all layers."""
        return self.num_hidden_layers * 2 * self.num_key_value_heads * self.head_dim * 4

    @model_validator(mode="after")
    def _sizes_fit(self) -> "Qwen2VLConfig":
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} does not divide over {self.num_attention_heads} heads")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"{self.num_attention_heads} query heads do not share {self.num_key_value_heads} key-value heads evenly"
            )
        if 2 * sum(self.mrope_section) != self.head_dim:
            raise ValueError(f"mrope_section {list(self.mrope_section)} does not add up to half of {self.head_dim}")
        if self.vision.hidden_size != self.hidden_size:
            raise ValueError(f"the vision tower gives {self.vision.hidden_size} values, the text takes {self.hidden_size}")
        if max(self.image_token_id, self.video_token_id, *self.eos_token_ids) >= self.vocab_size:
            raise ValueError(f"a special token id lies outside the vocabulary of {self.vocab_size}")
        return self

    @classmethod
    def from_folder(cls, folder: Path) -> "Qwen2VLConfig":
        """Read ``config.json`` and ``generation_config.json`` of a Hugging Face folder.

        Raises:
            SetupError: no such file, not JSON, another architecture, or sizes that cannot be.
        """
        raw = read_json(folder / "config.json")
        generation = folder / "generation_config.json"
        return cls.from_dict(raw, read_json(generation) if generation.exists() else {}, source=str(folder))

    @classmethod
    def from_dict(
        cls, raw: dict[str, Any], generation: dict[str, Any] | None = None, source: str = "config"
    ) -> "Qwen2VLConfig":
        """From the published flat layout, or the nested one of transformers >= 4.52 (``text_config``)."""
        if raw.get("model_type") != "qwen2_vl":
            raise SetupError(f"{source}: model_type is {raw.get('model_type')!r}, this engine reads 'qwen2_vl'")
        text = {**raw, **(raw.get("text_config") or {})}
        rope = text.get("rope_scaling") or text.get("rope_parameters") or {}
        eos = (generation or {}).get("eos_token_id", text.get("eos_token_id"))
        fields = {
            **text,
            "vision": raw.get("vision_config"),
            "tie_word_embeddings": raw.get("tie_word_embeddings", text.get("tie_word_embeddings", False)),
            "mrope_section": rope.get("mrope_section"),
            "rope_theta": text.get("rope_theta") or rope.get("rope_theta", 1e6),
            "eos_token_ids": eos if isinstance(eos, list) else [eos],
        }
        try:
            return cls(**fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise SetupError(
                f"{source}: config.json cannot be used: {where}: {first['msg']}".replace(": : ", ": ")
            ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, with errors that name the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SetupError(f"{path} is missing: give a Qwen2-VL folder as it was published, complete") from error
    except (OSError, ValueError) as error:
        raise SetupError(f"{path} cannot be read as JSON ({error}): copy it again") from error
    if not isinstance(value, dict):
        raise SetupError(f"{path} holds {type(value).__name__}, not an object: copy it again")
    return value
