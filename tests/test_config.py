"""Tests of config.json: the published layouts, and errors that name the invalid value."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from mindnlp_ocr.bench import published
from mindnlp_ocr.config import ModelConfig, read_json
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.models.qwen2vl import EMBEDDED
from mindnlp_ocr.weights.names import expected_shapes

RAW: dict[str, Any] = json.loads((EMBEDDED / "config.json").read_text(encoding="utf-8"))
VISION: dict[str, Any] = RAW["vision_config"]
MULTIMODAL = {"model_type", "architectures", "vision_config", "image_token_id", "video_token_id", "vision_start_token_id"}


def read(generation: dict[str, Any] | None = None, **changes: Any) -> ModelConfig:
    raw = {name: value for name, value in {**RAW, **changes}.items() if value != "absent"}
    return ModelConfig.from_dict(raw, generation, source="model")


def refusal(**changes: Any) -> str:
    with pytest.raises(SetupError) as error:
        read(**changes)
    message = str(error.value)
    assert message.startswith("model: ")
    assert "\n" not in message
    return message


def nested(**text_changes: Any) -> dict[str, Any]:
    """The same checkpoint as transformers >= 4.52 saves it."""
    text = {name: value for name, value in RAW.items() if name not in MULTIMODAL}
    rest = {name: RAW[name] for name in MULTIMODAL}
    return {**rest, "text_config": {**text, "model_type": "qwen2_vl_text", **text_changes}}


def test_the_published_layout_is_read_value_by_value() -> None:
    config = ModelConfig.from_folder(EMBEDDED)
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (384, 6, 8192)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (6, 2, 64)
    assert (config.mrope_section, config.rope_theta, config.rms_norm_eps) == ((8, 12, 12), 1e6, 1e-6)
    assert (config.tie_word_embeddings, config.image_token_id) == (True, 8140)
    assert (config.vision.depth, config.vision.embed_dim, config.vision.head_dim) == (8, 320, 64)
    assert (config.vision.mlp_dim, config.vision.patch_dim) == (1280, 1176)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"image_token_id": None, "video_token_id": None},  # a null there says nothing
        {"rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": [8, 12, 12]}},
        {
            "rope_theta": "absent",
            "rope_scaling": "absent",
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
        },
    ],
)
def test_the_nested_layout_of_transformers_4_52_is_the_same_config(changes: dict[str, Any]) -> None:
    raw = nested(**changes)
    raw["text_config"] = {name: value for name, value in raw["text_config"].items() if value != "absent"}
    assert ModelConfig.from_dict(raw) == ModelConfig.from_dict(RAW)


def test_an_embedding_that_is_not_tied_stays_so_in_both_layouts() -> None:
    assert read(tie_word_embeddings=False).tie_word_embeddings is False
    assert read(tie_word_embeddings="absent").tie_word_embeddings is False
    assert ModelConfig.from_dict(nested(tie_word_embeddings=False)).tie_word_embeddings is False


# End tokens


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        ({"eos_token_id": [8130, 8128]}, (8130, 8128)),
        ({"eos_token_id": 8128}, (8128,)),
        ({"eos_token_id": 0}, (0,)),
        ({}, (8130,)),
        (None, (8130,)),
        ({"eos_token_id": None}, (8130,)),
    ],
)
def test_the_end_tokens_are_those_of_generation_config_and_else_of_config(
    generation: dict[str, Any] | None, expected: tuple[int, ...]
) -> None:
    assert read(generation).eos_token_ids == expected


@pytest.mark.parametrize("ids", [[], [8130, 8192], 9000, -1, [8130, -1], "x", None, [None]])
def test_end_tokens_that_cannot_be_are_refused(ids: Any) -> None:
    refusal(eos_token_id=ids)
    if ids is not None:
        refusal(generation={"eos_token_id": ids})


def test_the_embedded_checkpoint_ends_at_either_of_its_two_tokens() -> None:
    assert ModelConfig.from_folder(EMBEDDED).eos_token_ids == (8130, 8128)


# What cannot be


@pytest.mark.parametrize("kind", ["qwen3_vl", "llama", None, 5, "absent"])
def test_another_architecture_is_named(kind: Any) -> None:
    found = None if kind == "absent" else kind
    assert (
        refusal(model_type=kind) == f"model: model_type is {found!r}, but this engine supports 'qwen2_vl' and 'qwen2_5_vl'"
    )


SIZES = [
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "max_position_embeddings",
]
VISION_SIZES = ["depth", "embed_dim", "hidden_size", "num_heads", "patch_size", "spatial_merge_size", "temporal_patch_size"]


@pytest.mark.parametrize("value", [0, -1, 1.5, "many", None, []])
@pytest.mark.parametrize("name", SIZES)
def test_a_size_that_cannot_be_is_named_with_its_field(name: str, value: Any) -> None:
    assert name in refusal(**{name: value})


@pytest.mark.parametrize("value", [0, -1, 1.5, "many", None, []])
@pytest.mark.parametrize("name", VISION_SIZES)
def test_a_size_of_the_vision_tower_that_cannot_be_is_named_with_its_field(name: str, value: Any) -> None:
    assert f"vision.{name}" in refusal(vision_config={**VISION, name: value})


@pytest.mark.parametrize("value", [10**9, 10**30])
@pytest.mark.parametrize("name", [*SIZES, *(f"vision.{name}" for name in VISION_SIZES)])
def test_an_absurd_size_is_refused_before_anything_is_made_of_it(name: str, value: int) -> None:
    """A billion layers would be twelve billion names before the first weight is missed."""
    vision, _, field = name.rpartition(".")
    refusal(**({"vision_config": {**VISION, field: value}} if vision else {field: value}))


@pytest.mark.parametrize(
    "name", ["vocab_size", "hidden_size", "num_hidden_layers", "image_token_id", "vision_start_token_id"]
)
def test_a_field_that_is_missing_is_named(name: str) -> None:
    assert refusal(**{name: "absent"}) == f"model: config.json cannot be used: {name}: Field required"


@pytest.mark.parametrize(
    ("changes", "decisive"),
    [
        ({"hidden_size": 385}, "hidden_size 385 is not a multiple of 6 heads"),
        ({"num_key_value_heads": 4}, "6 query heads are not a multiple of 4 key-value heads"),
        ({"num_key_value_heads": 12}, "6 query heads are not a multiple of 12 key-value heads"),
        ({"rope_scaling": {"mrope_section": [8, 8, 8]}}, "mrope_section [8, 8, 8] does not add up to half of 64"),
        ({"rope_scaling": {"mrope_section": [16, 24, 24]}}, "mrope_section [16, 24, 24] does not add up to half of 64"),
        ({"rope_scaling": {"mrope_section": [8, 24]}}, "mrope_section"),
        ({"rope_scaling": {"mrope_section": [-8, 28, 12]}}, "mrope_section.0: Input should be greater than 0"),
        ({"rope_scaling": {}}, "mrope_section"),
        ({"rope_scaling": None}, "mrope_section"),
        ({"rope_scaling": "mrope"}, "rope_scaling"),
        ({"rope_scaling": [8, 12, 12]}, "rope_scaling"),
        ({"text_config": "x"}, "text_config"),
        ({"text_config": [1]}, "text_config"),
        ({"vision_config": {**VISION, "hidden_size": 512}}, "the vision tower outputs 512 values, but hidden_size is 384"),
        (
            {"vision_config": {**VISION, "num_heads": 7}},
            "embed_dim 320 over 7 heads does not give a head size that is a multiple of 4",
        ),
        (
            {"vision_config": {**VISION, "num_heads": 160}},
            "embed_dim 320 over 160 heads does not give a head size that is a multiple of 4",
        ),
        ({"vision_config": {**VISION, "in_channels": 1}}, "vision.in_channels: Input should be 3"),
        ({"vision_config": {**VISION, "hidden_act": "gelu"}}, "vision.hidden_act: Input should be 'quick_gelu'"),
        ({"vision_config": "absent"}, "vision"),
        ({"vision_config": None}, "vision"),
        ({"vision_config": {}}, "vision.depth: Field required"),
        ({"vision_config": 5}, "vision"),
        ({"vision_config": {**VISION, "mlp_ratio": float("inf")}}, "vision.mlp_ratio"),
        ({"hidden_act": "gelu"}, "hidden_act: Input should be 'silu'"),
        ({"vocab_size": 100}, "a special token id is outside the vocabulary of 100 tokens"),
        ({"image_token_id": -1}, "image_token_id: Input should be greater than or equal to 0"),
        ({"image_token_id": 8192}, "a special token id is outside the vocabulary of 8192 tokens"),
        ({"rms_norm_eps": 0}, "rms_norm_eps: Input should be greater than 0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps"),
        ({"rope_theta": 0}, "rope_theta"),
        ({"rope_theta": -1}, "rope_theta: Input should be greater than 0"),
        ({"rope_theta": float("inf")}, "rope_theta"),
    ],
)
def test_values_that_do_not_fit_are_named_with_their_reason(changes: dict[str, Any], decisive: str) -> None:
    message = refusal(**changes)
    assert "config.json cannot be used: " in message
    assert decisive in message


@pytest.mark.parametrize(
    ("changes", "decisive"),
    [
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "mrope_section": [8, 12, 12]}}, "yarn"),
        ({"use_sliding_window": True, "sliding_window": 128, "max_window_layers": 0}, "sliding_window"),
    ],
)
def test_a_variant_that_this_engine_does_not_compute_is_refused_not_read_wrongly(
    changes: dict[str, Any], decisive: str
) -> None:
    assert decisive in refusal(**changes)


# Files


@pytest.mark.parametrize("content", [b"", b"{", b"not json", b"\xff\xfe{}", b'{"a": 1,}', b"[" * 100_000], ids=range(6))
def test_a_file_that_is_not_json_is_named_and_to_be_copied_again(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    for attempt in (lambda: read_json(path), lambda: ModelConfig.from_folder(tmp_path)):
        with pytest.raises(SetupError) as error:
            attempt()
        assert str(error.value).startswith(f"{path} cannot be read as JSON (")
        assert str(error.value).endswith("): copy it again")


@pytest.mark.parametrize(("content", "kind"), [("[]", "list"), ("5", "int"), ("null", "NoneType"), ('"x"', "str")])
def test_json_that_is_no_object_says_what_it_is(tmp_path: Path, content: str, kind: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SetupError) as error:
        ModelConfig.from_folder(tmp_path)
    assert str(error.value) == f"{path} contains {kind}, not an object: copy it again"


def test_a_missing_config_names_the_file_and_a_missing_generation_config_does_not_matter(tmp_path: Path) -> None:
    with pytest.raises(SetupError) as error:
        ModelConfig.from_folder(tmp_path)
    missing = f"{tmp_path / 'config.json'} is missing: pass a complete checkpoint folder"
    assert str(error.value) == missing
    shutil.copy(EMBEDDED / "config.json", tmp_path)
    assert ModelConfig.from_folder(tmp_path).eos_token_ids == (8130,)


def test_an_error_in_a_folders_config_names_the_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**RAW, "hidden_size": 385}), encoding="utf-8")
    with pytest.raises(SetupError) as error:
        ModelConfig.from_folder(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}: config.json cannot be used: ")


@pytest.mark.parametrize("name", published.CONFIGS)
def test_the_published_shapes_are_read_flat_and_nested(name: str) -> None:
    flat = published.CONFIGS[name]
    config = ModelConfig.from_dict(flat)
    assert config.head_dim == 2 * sum(config.mrope_section)
    text = {key: value for key, value in flat.items() if key not in ("model_type", "vision_config")}
    nested = {
        "model_type": flat["model_type"],
        "text_config": {"model_type": f"{flat['model_type']}_text", **text},
        "vision_config": {**flat["vision_config"], "in_chans": 3, "in_channels": 3},
    }
    assert ModelConfig.from_dict(nested) == config  # as MinerU2.5-Pro-2605 has it: what ties the head is inside too


def test_the_shapes_of_mineru_add_up_to_its_published_size() -> None:
    shapes = expected_shapes(ModelConfig.from_dict(published.CONFIGS["mineru2.5-1.2b"]))
    assert "lm_head.weight" not in shapes
    assert round(2 * sum(math.prod(shape) for shape in shapes.values()) / 2**30, 2) == 2.15


# Qwen2.5-VL

WINDOWS: dict[str, Any] = published.CONFIGS["qwen2.5-3b"]


def windows_with(**changes: Any) -> ModelConfig:
    vision = {name: value for name, value in {**WINDOWS["vision_config"], **changes}.items() if value != "absent"}
    return ModelConfig.from_dict({**WINDOWS, "vision_config": vision}, source="model")


def test_the_names_of_qwen2_5_vl_are_read_value_by_value() -> None:
    vision = windows_with().vision
    assert (vision.depth, vision.embed_dim, vision.hidden_size, vision.mlp_dim) == (32, 1280, 2048, 3420)
    assert (vision.norm, vision.mlp, vision.window, vision.head_dim) == ("rms", "silu_gate", 4, 80)
    assert [block for block in range(vision.depth) if not vision.windowed(block)] == [7, 15, 23, 31]
    assert windows_with(window_size="absent", fullatt_block_indexes="absent").vision == vision


def test_qwen2_vl_has_no_windows() -> None:
    vision = read().vision
    assert (vision.norm, vision.mlp, vision.window, vision.windowed(0)) == ("layer", "quick_gelu", 0, False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out_hidden_size": "absent"}, "vision.out_hidden_size: Field required"),
        ({"hidden_size": 0}, "vision.hidden_size: Input should be greater than 0"),
        ({"intermediate_size": None}, "vision.intermediate_size: Input should be a valid integer"),
        ({"hidden_act": "quick_gelu"}, "vision.hidden_act: Input should be 'silu'"),
        ({"out_hidden_size": 3584}, "the vision tower outputs 3584 values, but hidden_size is 2048"),
        ({"window_size": 100}, "window_size 100 is not a multiple of 28, the pixels of a merged patch"),
        ({"window_size": 0}, "vision.window_size: Input should be greater than 0"),
        ({"fullatt_block_indexes": "7"}, "vision.fullatt_block_indexes"),
    ],
)
def test_a_vision_tower_of_qwen2_5_vl_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SetupError) as error:
        windows_with(**changes)
    assert "config.json cannot be used: " in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "parameters", "weights"), [("qwen2.5-3b", 3754622976, 824), ("qwen2.5-7b", 8292166656, 729)]
)
def test_the_weights_of_qwen2_5_vl_add_up_to_the_published_sizes(name: str, parameters: int, weights: int) -> None:
    """The numbers of parameters that the published safetensors files hold: 3.75 and 8.29 billion."""
    shapes = expected_shapes(ModelConfig.from_dict(published.CONFIGS[name]))
    assert (sum(math.prod(shape) for shape in shapes.values()), len(shapes)) == (parameters, weights)
