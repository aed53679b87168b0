"""The validated configuration of a checkpoint (``config.json``)."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mindnlp_ocr.architectures import ARCHITECTURES, Layers, Positive, Size, VisionConfig
from mindnlp_ocr.errors import SetupError

TokenId = Annotated[int, Field(ge=0)]
Model = TypeVar("Model", bound=BaseModel)


class ModelConfig(BaseModel):
    """The configuration of the language model and its vision tower."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    vision: VisionConfig
    vocab_size: Size
    hidden_size: Size
    num_hidden_layers: Layers
    num_attention_heads: Size
    num_key_value_heads: Size
    intermediate_size: Size
    max_position_embeddings: Size
    rms_norm_eps: Positive = 1e-6
    rope_theta: Positive = 1e6
    mrope_section: tuple[Size, Size, Size]
    tie_word_embeddings: bool = False
    hidden_act: Literal["silu"] = "silu"
    image_token_id: TokenId
    video_token_id: TokenId
    vision_start_token_id: TokenId
    eos_token_ids: tuple[TokenId, ...] = Field(min_length=1)

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @model_validator(mode="after")
    def _sizes_fit(self) -> "ModelConfig":
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of {self.num_attention_heads} heads")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"{self.num_attention_heads} query heads are not a multiple of {self.num_key_value_heads} key-value heads"
            )
        if 2 * sum(self.mrope_section) != self.head_dim:
            raise ValueError(f"mrope_section {list(self.mrope_section)} does not add up to half of {self.head_dim}")
        if self.vision.hidden_size != self.hidden_size:
            raise ValueError(
                f"the vision tower outputs {self.vision.hidden_size} values, but hidden_size is {self.hidden_size}"
            )
        if max(self.image_token_id, self.video_token_id, *self.eos_token_ids) >= self.vocab_size:
            raise ValueError(f"a special token id is outside the vocabulary of {self.vocab_size} tokens")
        return self

    @classmethod
    def from_folder(cls, folder: Path) -> "ModelConfig":
        """Read ``config.json`` and ``generation_config.json`` of a Hugging Face folder.

        Raises:
            SetupError: the file is missing or not JSON, the architecture is not supported, or sizes are inconsistent.
        """
        raw = read_json(folder / "config.json")
        generation = folder / "generation_config.json"
        return cls.from_dict(raw, read_json(generation) if generation.exists() else {}, source=str(folder))

    @classmethod
    def from_dict(
        cls, raw: dict[str, Any], generation: dict[str, Any] | None = None, source: str = "config"
    ) -> "ModelConfig":
        """Parse the published flat layout, or the nested one of transformers >= 4.52 (``text_config``)."""
        architecture = ARCHITECTURES.get(str(raw.get("model_type")))
        if architecture is None:
            known = " and ".join(repr(name) for name in ARCHITECTURES)
            raise SetupError(
                f"{source}: model_type is {raw.get('model_type')!r}, but this engine supports {known}",
                code="model_type_unsupported",
            )
        nested = _object(raw, "text_config", source)
        text = {**raw, **{name: value for name, value in nested.items() if value is not None}}
        rope = _object(text, "rope_scaling", source) or _object(text, "rope_parameters", source)
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in ("default", "mrope"):
            raise SetupError(
                f"{source}: config.json cannot be used: rope_scaling is {kind!r}, this engine computes 'mrope'",
                code="config_invalid",
            )
        if text.get("use_sliding_window"):
            raise SetupError(
                f"{source}: config.json cannot be used: use_sliding_window is true, which this engine does not support",
                code="config_invalid",
            )
        theta = rope.get("rope_theta", 1e6) if text.get("rope_theta") is None else text["rope_theta"]
        eos = (generation or {}).get("eos_token_id")
        eos = text.get("eos_token_id") if eos is None else eos
        fields = {
            **text,
            "vision": _checked(architecture.vision, raw.get("vision_config"), source, "vision"),
            "tie_word_embeddings": raw.get("tie_word_embeddings", text.get("tie_word_embeddings", False)),
            "mrope_section": rope.get("mrope_section"),
            "rope_theta": theta,
            "eos_token_ids": eos if isinstance(eos, list) else [eos],
        }
        return _checked(cls, fields, source)


def _checked(model: type[Model], given: Any, source: str, *where: str) -> Model:
    """Validate a part of config.json, at the path ``where``. The error names the first invalid field."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in (*where, *first["loc"]))
        raise SetupError(
            f"{source}: config.json cannot be used: {place}: {first['msg']}".replace(": : ", ": "), code="config_invalid"
        ) from error


def _object(raw: dict[str, Any], name: str, source: str) -> dict[str, Any]:
    value = raw.get(name)
    if value is not None and not isinstance(value, dict):
        raise SetupError(
            f"{source}: config.json cannot be used: {name} is {type(value).__name__}, not an object", code="config_invalid"
        )
    return value or {}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file. Errors name the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SetupError(f"{path} is missing: pass a complete checkpoint folder", code="checkpoint_incomplete") from error
    except (OSError, ValueError, RecursionError) as error:
        raise SetupError(f"{path} cannot be read as JSON ({error}): copy it again", code="json_invalid") from error
    if not isinstance(value, dict):
        raise SetupError(f"{path} contains {type(value).__name__}, not an object: copy it again", code="json_invalid")
    return value
