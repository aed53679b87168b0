"""A model whose vision tower has windows is a model like any other: cache, batches, dtypes, export, adapters."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mindnlp_ocr.cache.config import CacheConfig
from mindnlp_ocr.errors import PageError, SetupError
from mindnlp_ocr.models.export import export_model
from mindnlp_ocr.models.limits import Limits
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
from mindnlp_ocr.ops import native
from mindnlp_ocr.weights.convert import convert
from mindnlp_ocr.weights.folder import FolderCheckpoint
from tests.conftest import logit_bits, run
from tests.windows import write_checkpoint

pytestmark = pytest.mark.skipif(not native.available()[0], reason=native.available()[1])

PAGES = ["tests/pages/odd_301x173.png", "tests/pages/word_56x56.png", "tests/pages/tall_126x644.png"]
LINE = "tests/pages/line_400x60.png"
TOKENS = 6


def ask(*images: str, text: str = "OCR") -> list[dict[str, Any]]:
    return [
        {
            "role": "user",
            "content": [*({"type": "image", "image": image} for image in images), {"type": "text", "text": text}],
        }
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("windows") / "tiny")


@pytest.fixture(scope="module")
def reader(folder: Path) -> Qwen2VLModel:
    return Qwen2VLModel(folder)


def features(model: Qwen2VLModel) -> np.ndarray:
    prompt = model.processor.prompt(ask(*PAGES))
    return np.concatenate([model.engine.graphs.vision([image.patches()])[0] for image in prompt.images])


def test_a_cached_image_gives_the_bits_of_a_fresh_one(reader: Qwen2VLModel) -> None:
    reader.clear_cache()
    fresh = run(reader, ask(*PAGES), TOKENS)
    again = run(reader, ask(*PAGES), TOKENS)
    other = run(reader, ask(*PAGES, text="Text:"), TOKENS)
    images = [image.tokens for image in fresh.key.images]
    assert fresh.reused == 0
    assert again.reused >= other.reused > sum(images) > 100
    assert logit_bits(again) == logit_bits(fresh)
    reader.clear_cache()
    assert logit_bits(run(reader, ask(*PAGES, text="Text:"), TOKENS)) == logit_bits(other)


def test_images_packed_into_one_call_give_the_tokens_that_they_give_alone(reader: Qwen2VLModel) -> None:
    batch = [ask(page) for page in PAGES]
    reader.clear_cache()
    alone = [reader.generate(messages, TOKENS).token_ids for messages in batch]
    reader.clear_cache()
    together = dict(reader.generate_batch(batch, TOKENS, batch_size=3))
    assert [getattr(together[number], "token_ids", None) for number in range(3)] == alone


def test_eager_attention_gives_the_same_features(reader: Qwen2VLModel, folder: Path) -> None:
    np.testing.assert_allclose(features(Qwen2VLModel(folder, attn="eager")), features(reader), atol=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [("bf16", 0.02), ("fp16", 0.003), ("int8", 0.06)])
def test_other_dtypes_give_nearly_the_same_features(
    reader: Qwen2VLModel, folder: Path, dtype: Any, tolerance: float
) -> None:
    """Relative to their own size, which is about one."""
    difference = features(Qwen2VLModel(folder, dtype=dtype)) - features(reader)
    assert 0 < np.sqrt((difference**2).mean()) < tolerance


def test_weights_stored_in_8_bits_give_the_bits_of_those_rounded_while_loading(folder: Path, tmp_path: Path) -> None:
    convert(FolderCheckpoint(folder), tmp_path / "int8", "int8")
    stored = Qwen2VLModel(tmp_path / "int8")
    assert stored.get_model_info()["dtype"] == "int8"
    assert features(stored).tobytes() == features(Qwen2VLModel(folder, dtype="int8")).tobytes()


@pytest.mark.parametrize("attn", ["flash", "eager"])
def test_an_exported_model_gives_the_logits_of_the_live_one(folder: Path, tmp_path: Path, attn: Any) -> None:
    pages, sizes, length = (PAGES, [192, 448], 160) if attn == "flash" else ([LINE], [192], 96)
    limits = Limits(max_length=length, max_new_tokens=TOKENS)
    export_model(folder, tmp_path / "x", cache_config=CacheConfig(slots=2), limits=limits, vision_patches=sizes, attn=attn)
    exported = Qwen2VLModel.from_exported(tmp_path / "x")
    live = Qwen2VLModel(folder, max_length=length, max_pixels=sizes[-1] * 14 * 14, attn=attn)
    for page in pages:
        theirs, ours = run(exported, ask(page), TOKENS), run(live, ask(page), TOKENS)
        assert theirs.token_ids == ours.token_ids
        if attn == "flash":
            assert logit_bits(theirs) == logit_bits(ours)
    entry = next(
        graph for graph in json.loads((tmp_path / "x" / "export.json").read_text())["graphs"] if graph["bucket"] == 192
    )
    assert [array["name"] for array in entry["inputs"]] == ["patches", "cos", "sin", "cu_seqlens", "cu_windows"]


def test_an_adapter_of_the_gated_mlp_gives_the_bits_of_weights_that_hold_it(folder: Path, tmp_path: Path) -> None:
    adapter, random = tmp_path / "adapter", np.random.default_rng(0)
    adapter.mkdir()
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["gate_proj", "down_proj", "0"]}
    (adapter / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    weights, tensors, changed = load_file(folder / "model.safetensors"), {}, {}
    for module in ("visual.blocks.0.mlp.gate_proj", "visual.blocks.2.mlp.down_proj", "visual.merger.mlp.0"):
        out, width = weights[f"{module}.weight"].shape
        a, b = (random.standard_normal(shape).astype(np.float32) / 8 for shape in ((4, width), (out, 4)))
        tensors |= {f"base_model.model.model.{module}.lora_{side}.weight": factor for side, factor in (("A", a), ("B", b))}
        changed[f"{module}.weight"] = weights[f"{module}.weight"] + (b @ a) * np.float32(2)
    save_file(tensors, adapter / "adapter_model.safetensors")
    model = Qwen2VLModel(folder)
    before = features(model)
    model.set_adapter(adapter)
    merged = features(model)
    assert merged.tobytes() == features(Qwen2VLModel(write_checkpoint(tmp_path / "merged", **changed))).tobytes()
    model.set_adapter(None)
    assert features(model).tobytes() == before.tobytes()
    assert np.abs(merged - before).max() > 0.05


def test_an_adapter_for_qwen2_vl_is_refused_with_the_nearest_name(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 8}', encoding="utf-8")
    name = "base_model.model.visual.blocks.0.mlp.fc1"
    tensors = {
        f"{name}.lora_A.weight": np.zeros((4, 64), np.float32),
        f"{name}.lora_B.weight": np.zeros((84, 4), np.float32),
    }
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(
        SetupError, match=r"the model has no weight visual.blocks.0.mlp.fc1.weight \(the nearest is visual.blocks"
    ):
        Qwen2VLModel(folder, lora_weights_path=tmp_path)


def test_an_overflow_names_the_block(tmp_path: Path) -> None:
    name = "visual.blocks.2.mlp.down_proj.weight"
    model = Qwen2VLModel(write_checkpoint(tmp_path / "x", **{name: np.full((64, 84), 3e38, np.float32)}))
    with pytest.raises(PageError, match=r"visual\.blocks\.2 produced values that are not finite"):
        model.generate(ask(PAGES[0]))


def test_nothing_is_compiled_after_warm_up(folder: Path) -> None:
    model = Qwen2VLModel(folder, max_length=128, max_pixels=28 * 28 * 24)
    model.warm_up()
    compilations = model.get_model_info()["compilations"]
    for page in PAGES:
        model.generate(ask(page), 2)
    assert model.get_model_info()["compilations"] == compilations
