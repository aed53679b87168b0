"""Tests of LoRA adapters: merging as in PEFT, switching, and errors for adapters that do not match."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from mindnlp_ocr.cli import main
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.models.qwen2vl import EMBEDDED, Qwen2VLModel
from mindnlp_ocr.weights.checkpoint import open_checkpoint
from mindnlp_ocr.weights.convert import convert
from mindnlp_ocr.weights.folder import FolderCheckpoint
from mindnlp_ocr.weights.lora import AdaptedCheckpoint, Adapter
from mindnlp_ocr.weights.split import Split
from tests.conftest import GOLDENS, case, logit_bits, run

LORA = GOLDENS / "lora"
ADAPTERS = ["patterns", "everything", "head"]
PAGES: dict[str, dict[str, Any]] = json.loads((LORA / "pages.json").read_text(encoding="utf-8"))
SAMPLE = 401  # of tests/reference/record_lora.py
BASE = FolderCheckpoint(EMBEDDED)
LINE = "line_392x28"
Q = "model.layers.1.self_attn.q_proj.weight"


def read(model: Qwen2VLModel, page: dict[str, Any]) -> list[int]:
    return model.generate(page["messages"], page["max_new_tokens"]).token_ids


@pytest.mark.parametrize("name", ADAPTERS)
def test_merged_weights_are_those_of_peft(name: str) -> None:
    adapted = AdaptedCheckpoint(BASE, Adapter(LORA / name))
    golden = np.load(LORA / "merged.npz", allow_pickle=False)
    expected = {key.removeprefix(f"{name}/"): golden[key] for key in golden.files if key.startswith(f"{name}/")}
    assert adapted.adapter.changed == set(expected)
    config = adapted.config(EMBEDDED)
    with adapted.weights(config) as weights:
        for key, numbers in expected.items():
            found = weights[key]
            assert isinstance(found, np.ndarray)
            np.testing.assert_allclose(found.astype(np.float32).reshape(-1)[::SAMPLE], numbers, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ADAPTERS)
def test_texts_under_an_adapter_are_those_of_peft(name: str) -> None:
    model = Qwen2VLModel(lora_weights_path=LORA / name, dtype="fp32")
    for page in PAGES[name].values():
        assert read(model, page) == page["token_ids"]
    assert model.get_model_info()["lora"] == str(LORA / name)


def test_switching_leaves_the_bits_of_a_model_that_was_loaded_so(model: Qwen2VLModel) -> None:
    switched = Qwen2VLModel(lora_weights_path=LORA / "patterns")
    page = case(LINE)
    under = {
        name: logit_bits(run(Qwen2VLModel(lora_weights_path=LORA / name), page["messages"], 5)) for name in ADAPTERS[:2]
    }
    under["none"] = logit_bits(run(model, page["messages"], 5))
    assert len({bits[0] for bits in under.values()}) == 3
    for name in ("patterns", "everything", "none", "everything", "patterns", "none"):
        switched.set_adapter(None if name == "none" else LORA / name)
        switched.clear_cache()
        assert logit_bits(run(switched, page["messages"], 5)) == under[name]


def test_what_is_cached_is_reused_under_its_own_adapter_alone() -> None:
    model = Qwen2VLModel()
    page = case(LINE)
    tokens = {}
    for name in (None, LORA / "everything", LORA / "patterns"):
        model.set_adapter(name)
        reading = model.generate(page["messages"], 5)
        assert reading.reused_tokens == 0
        tokens[name] = reading.token_ids
    compilations = model.get_model_info()["compilations"]
    for name, expected in tokens.items():
        model.set_adapter(name)
        again = model.generate(page["messages"], 5)
        assert again.token_ids == expected
        assert again.reused_tokens == again.prompt_tokens - 1
    assert model.get_model_info()["compilations"] == compilations


def test_a_request_that_waited_while_the_adapter_changed_is_read_and_cached_under_the_new_one() -> None:
    model = Qwen2VLModel(dtype="fp32")
    page = PAGES["everything"][LINE]
    waiting = model.requests.generation(page["messages"], page["max_new_tokens"])
    model.engine.run_vision([waiting])  # ahead of admission, as a batch does it
    model.set_adapter(LORA / "everything")
    assert list(model.scheduler.run(waiting)) == page["token_ids"]
    again = model.generate(page["messages"], page["max_new_tokens"])
    assert (again.token_ids, again.reused_tokens) == (page["token_ids"], again.prompt_tokens - 1)
    model.set_adapter(None)
    assert model.generate(page["messages"], page["max_new_tokens"]).reused_tokens == 0


def test_a_saved_cache_keeps_what_was_read_under_each_adapter_apart(tmp_path: Path, recwarn: Any) -> None:
    model, page = Qwen2VLModel(), case(LINE)
    plain = model.generate(page["messages"], 5).token_ids
    model.set_adapter(LORA / "everything")
    under = model.generate(page["messages"], 5).token_ids
    assert under != plain
    assert model.save_cache(tmp_path) == 2
    for adapter, expected in ((None, plain), (LORA / "everything", under)):
        other = Qwen2VLModel(lora_weights_path=adapter)
        assert other.load_cache(tmp_path) == 1
        reading = other.generate(page["messages"], 5)
        assert (reading.token_ids, reading.reused_tokens) == (expected, reading.prompt_tokens - 1)
    assert all("belongs to another checkpoint, dtype or adapter" in str(warning.message) for warning in recwarn)


def test_an_adapter_of_the_language_model_keeps_what_is_known_of_images() -> None:
    model = Qwen2VLModel()
    model.generate(case(LINE)["messages"], 2)
    model.set_adapter(LORA / "patterns")
    model.generate(case(LINE)["messages"], 2)
    assert model.get_cache_stats()["feature_hits"] == 1
    model.set_adapter(LORA / "everything")
    assert model.get_cache_stats()["feature_items"] == 0


def test_a_running_request_and_a_tied_head_keep_the_adapter_as_it_is() -> None:
    model = Qwen2VLModel(lora_weights_path=LORA / "patterns")
    pieces = model.stream(case(LINE)["messages"])
    next(pieces)
    with pytest.raises(SetupError, match="set_adapter: 1 requests are running: wait until they end"):
        model.set_adapter(None)
    pieces.close()  # type: ignore[attr-defined]
    with pytest.raises(SetupError, match="tied with one of the adapters, but not with the other: load a second model"):
        model.set_adapter(LORA / "head")
    assert model.get_model_info()["lora"] == str(LORA / "patterns")
    page = PAGES["patterns"][LINE]
    assert read(Qwen2VLModel(lora_weights_path=LORA / "patterns"), page) == read(model, page)


@pytest.mark.parametrize(("name", "target"), [("everything", "merged"), ("head", "merged.npz")])
def test_a_checkpoint_with_an_adapter_merged_in_reads_as_with_the_adapter(tmp_path: Path, name: str, target: str) -> None:
    convert(AdaptedCheckpoint(BASE, Adapter(LORA / name)), tmp_path / target, "fp32")
    model = Qwen2VLModel(tmp_path / target)
    for page in PAGES[name].values():
        assert read(model, page) == page["token_ids"]
    with open_checkpoint(tmp_path / target).files() as folder:
        tied = json.loads((folder / "config.json").read_text(encoding="utf-8"))["tie_word_embeddings"]
    assert tied == (name != "head")


def test_an_adapter_over_eight_bits_is_merged_in_float32() -> None:
    adapter = Adapter(LORA / "patterns")
    from mindnlp_ocr.weights.quantize import dequantize, quantize

    with BASE.weights(BASE.config(EMBEDDED)) as weights:
        base = weights[Q]
    assert isinstance(base, np.ndarray)
    quantized = quantize(base)
    expected = dequantize(quantized) + adapter.merged(Q, np.zeros_like(base))
    np.testing.assert_array_equal(adapter.merged(Q, quantized), expected)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_part_of_an_adapted_model_is_a_part_of_the_merged_weights(rank: int) -> None:
    adapted = AdaptedCheckpoint(BASE, Adapter(LORA / "patterns"))
    with adapted.weights(adapted.config(EMBEDDED)) as weights:
        parts = Split(rank, 2).weights(weights)
        half = slice(rank * 192, (rank + 1) * 192)
        np.testing.assert_array_equal(parts[Q], np.asarray(weights[Q])[half])
        o_proj = "model.layers.2.self_attn.o_proj.weight"
        np.testing.assert_array_equal(parts[o_proj], np.asarray(weights[o_proj])[:, half])


# Adapters that do not fit


def changed(tmp_path: Path, tensors: Callable[[dict[str, Any]], object], **config: Any) -> Path:
    """The "patterns" adapter with other tensors or settings."""
    folder = tmp_path / "adapter"
    shutil.copytree(LORA / "patterns", folder)
    found = load_file(folder / "adapter_model.safetensors")
    tensors(found)
    save_file(found, folder / "adapter_model.safetensors")
    raw = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    (folder / "adapter_config.json").write_text(json.dumps({**raw, **config}), encoding="utf-8")
    return folder


def same(_: dict[str, Any]) -> None:
    pass


A = "base_model.model.model.language_model.layers.1.self_attn.q_proj.lora_A.weight"
B = A.replace("lora_A", "lora_B")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(B), "model.language_model.layers.1.self_attn.q_proj has only lora_A"),
        (
            lambda t: t.update({A: np.ones((3, 384), np.float32)}),
            "q_proj has lora_A (3, 384) and lora_B (384, 2), but its rank in adapter_config.json is 2",
        ),
        (lambda t: t.update({A: t[A].astype(np.int32)}), "q_proj.lora_A.weight is stored as int32"),
        (
            lambda t: t.update({A.replace("lora_A", "lora_magnitude_vector"): np.ones(384, np.float32)}),
            "q_proj.lora_magnitude_vector.weight is not a supported kind of weight",
        ),
        (lambda t: t.clear(), "it contains no weights"),
    ],
)
def test_tensors_that_do_not_fit_one_another_are_named(tmp_path: Path, change: Callable[[Any], object], words: str) -> None:
    with pytest.raises(SetupError) as error:
        Adapter(changed(tmp_path, change))
    assert words in str(error.value)
    assert str(error.value).endswith(": save the adapter again with PEFT")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t: t.update({A: np.ones((2, 500), np.float32)}),
            f"{Q} has the shape (384, 384), but in the adapter (384, 500)",
        ),
        (
            lambda t: t.update({A.replace("layers.1", "layers.77"): t[A], B.replace("layers.1", "layers.77"): t[B]}),
            "the model has no weight model.layers.77.self_attn.q_proj.weight (the nearest is ",
        ),
        (
            lambda t: t.update({"base_model.model.model.language_model.norm.weight": np.ones(100, np.float32)}),
            "model.norm.weight has the shape (384,), but in the adapter (100,)",
        ),
    ],
)
def test_an_adapter_for_another_base_names_the_weights_that_do_not_fit(
    tmp_path: Path, change: Callable[[Any], object], words: str
) -> None:
    ranks = {"layers.2.self_attn.q_proj": 4, "q_proj": 2, "o_proj": 3}
    folder = changed(tmp_path, change, rank_pattern=ranks)
    with pytest.raises(SetupError) as error:
        Qwen2VLModel(lora_weights_path=folder)
    assert f"adapter {folder} is for another base: " in str(error.value)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3' (Input should be 'LORA')"),
        ({"use_dora": True}, "use_dora is True (Input should be False): merge it with PEFT, and use the merged model"),
        ({"init_lora_weights": "pissa"}, "is 'pissa'"),
        ({"r": 0}, "r is 0 ("),
        ({"r": "many"}, "r is 'many' ("),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan ("),
        ({"rank_pattern": {"q_proj": -1}}, "rank_pattern.q_proj is -1 ("),
        ({"rank_pattern": {"(": 4}}, "'(' is not a regular expression"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is True"),
        ({"target_parameters": ["x"]}, "target_parameters is ['x']"),
        ({"layer_replication": [[0, 1]]}, "layer_replication is [[0, 1]]"),
    ],
)
def test_settings_that_would_change_the_merge_are_refused(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    with pytest.raises(SetupError) as error:
        Adapter(changed(tmp_path, same, **config))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_adapter_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"none does not exist: pass a folder with adapter_config\.json"):
        Adapter(tmp_path / "none")
    with pytest.raises(SetupError, match="qwen2vl-ocr-tiny is not a LoRA adapter: pass a folder with"):
        Adapter(EMBEDDED)
    folder = changed(tmp_path, same)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(SetupError, match=r"adapter_model\.safetensors is truncated or not safetensors"):
        Adapter(folder)
    weights.unlink()
    with pytest.raises(SetupError, match=r"adapter_model\.safetensors is missing"):
        Adapter(folder)
    (folder / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(SetupError, match=r"adapter_model\.bin, a pickle: save it with safe_serialization=True"):
        Adapter(folder)


def test_the_command_reads_with_an_adapter(capsys: pytest.CaptureFixture[str]) -> None:
    # With the layout auto, a page whose text is as doubtful as this one may be read again by its lines.
    options = ["--lora", str(LORA / "head"), "--dtype", "fp32", "--prompt", "OCR", "--max-new-tokens", "24"]
    assert main(["tests/pages/word_56x56.png", "--layout", "page", "--format", "json", *options]) == 0
    report = json.loads(capsys.readouterr().out)
    tokenizer = Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    expected = tokenizer.decode(PAGES["head"]["word_56x56"]["token_ids"], skip_special_tokens=True)
    kept = report["results"][0]["text"]  # a text that only repeats itself is cut where that began
    assert kept
    assert expected.startswith(kept)
    assert report["model"]["lora"] == str(LORA / "head")
