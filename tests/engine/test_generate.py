"""Tests of generation: limits, streaming, the cache on and off, and cleanup after requests."""

from pathlib import Path
from typing import Any

import pytest

from mindnlp_ocr.cache.config import CacheConfig
from mindnlp_ocr.errors import PageError, SetupError
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
from mindnlp_ocr.ops import native
from mindnlp_ocr.ops.detect import detect_flash_attention_support
from tests.conftest import case, logit_bits, run


def test_max_new_tokens_is_a_finish_reason_and_a_prefix_of_the_whole(model: Qwen2VLModel) -> None:
    golden = case("line_400x60")
    for limit in (1, 5):
        reading = model.generate(golden["messages"], limit)
        assert (reading.token_ids, reading.finish_reason) == (golden["token_ids"][:limit], "length")
        assert reading.new_tokens == limit


def test_a_full_slot_is_a_finish_reason_and_the_tokens_up_to_it_are_the_same() -> None:
    golden = case("second_question")
    prompt = len(golden["prompt_ids"])
    model = Qwen2VLModel(max_length=prompt + 5, max_pixels=401408)
    reading = model.generate(golden["messages"])
    assert reading.finish_reason == "length"
    assert reading.token_ids == golden["token_ids"][:6]  # the last one needs no row of its own


def test_positions_that_the_checkpoint_does_not_know_end_the_text_or_are_the_pages_error() -> None:
    golden = case("second_question")
    model = Qwen2VLModel(max_length=512, max_pixels=100_352)
    reading = model.generate(golden["messages"])
    prompt = model.processor.prompt(golden["messages"])
    known = len(prompt.token_ids) + golden["rope_delta"] + 4
    requests = model.requests
    requests.config = model.config.model_copy(update={"max_position_embeddings": known})
    shorter = model.generate(golden["messages"])
    assert (shorter.token_ids, shorter.finish_reason) == (reading.token_ids[:5], "length")
    requests.config = model.config.model_copy(update={"max_position_embeddings": known - 5})
    with pytest.raises(
        PageError, match=rf"the prompt reaches position {known - 5}, but the checkpoint supports {known - 5}"
    ):
        model.generate(golden["messages"])


def test_a_prompt_longer_than_the_slot_names_both_and_the_next_page_is_read(model: Qwen2VLModel) -> None:
    long = [{"role": "user", "content": "word " * 3000}]
    with pytest.raises(PageError, match=r"the prompt has \d+ tokens, but a slot holds 2048 .* raise --max-length"):
        model.infer(long)
    golden = case("word_56x56")
    assert model.infer(golden["messages"]) == golden["text"]


def test_an_impossible_max_new_tokens_is_refused(model: Qwen2VLModel) -> None:
    with pytest.raises(PageError, match="max_new_tokens is 0: use 1 or more"):
        model.infer(case("word_56x56")["messages"], max_new_tokens=0)


def test_a_failing_device_is_the_pages_error_and_the_next_page_is_read(
    model: Qwen2VLModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = case("word_56x56")
    model.clear_cache()

    def full(*_: object) -> None:
        raise RuntimeError("Memory not enough\nstack")

    with monkeypatch.context() as patch:
        patch.setattr(model.engine.graphs, "_vision", full)
        with pytest.raises(PageError, match=r"MindSpore failed in vision \(Memory not enough\): lower max_pixels"):
            model.infer(golden["messages"])
    assert model.infer(golden["messages"]) == golden["text"]


def test_streamed_pieces_add_up_to_the_text(model: Qwen2VLModel) -> None:
    golden = case("mixed_420x238")
    pieces: list[str] = []
    reading = model.generate(golden["messages"], on_text=pieces.append)
    assert "".join(pieces) == reading.text == golden["text"]
    assert len(pieces) > 20


def test_the_same_request_after_others_gives_the_same_bits(model: Qwen2VLModel) -> None:
    """Stale rows of an earlier, longer request, its rope_delta and its features must not be seen."""

    def logits(name: str) -> list[bytes]:
        model.clear_cache()
        generation = run(model, case(name)["messages"], 12)
        assert generation.token_ids == case(name)["token_ids"][:12]
        return logit_bits(generation)

    first = logits("line_400x60")
    logits("two_images")
    logits("zh_text_448x308")
    assert logits("line_400x60") == first


def test_without_a_kv_cache_the_tokens_are_the_same_and_no_slot_is_held() -> None:
    model = Qwen2VLModel(cache_config=CacheConfig(enable_kv_cache=False))
    for name in ("line_400x60", "two_images", "text_only"):
        assert model.generate(case(name)["messages"]).token_ids == case(name)["token_ids"]
    assert model.get_cache_stats()["total_memory_mb"] == "0.00MB"
    assert model.get_cache_stats()["total_requests"] == 0
    assert model.get_model_info()["kv_cache_enabled"] is False


def test_mindspores_own_operators_alone_give_the_same_tokens() -> None:
    model = Qwen2VLModel(attn="eager")
    assert model.get_model_info()["attn_implementation"] == "eager"
    for name in ("two_images", "text_only"):
        assert model.generate(case(name)["messages"]).token_ids == case(name)["token_ids"]


def test_the_cache_can_be_switched_at_run_time() -> None:
    model = Qwen2VLModel()
    golden = case("line_392x28")
    expected_memory = {True: 96, False: 0}
    for times, enabled in enumerate((True, False, True)):
        model.update_cache_config(CacheConfig(enable_kv_cache=enabled))
        assert model.generate(golden["messages"]).token_ids == golden["token_ids"]
        held = float(model.get_cache_stats()["total_memory_mb"].removesuffix("MB"))
        assert expected_memory[enabled] <= held <= 1.01 * expected_memory[enabled]  # eight slots, and features
        # New slots take a new prefill and a new decode graph, and are no business of the images' graphs.
        assert model.get_model_info()["compilations"] == 3 + 2 * times


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_name": "no/such/folder"}, r"model no/such/folder does not exist \(nothing is downloaded\)"),
        ({"model_name": "merged.npz"}, r"model merged.npz does not exist"),
        ({"lora_weights_path": "adapter"}, "adapter adapter does not exist: pass a folder with adapter_config.json"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0: use 1 or more"),
        ({"max_length": 8}, r"max_length is 8: use 64 to 262144"),
        ({"max_length": 1 << 19}, r"max_length is 524288: use 64 to 262144"),
        ({"max_pixels": 100}, r"max_pixels 100 do not fit: use 784 <= min_pixels <= max_pixels"),
        ({"min_pixels": 500_000, "max_pixels": 400_000}, "min_pixels 500000 and max_pixels 400000 do not fit"),
        ({"attn": "sdpa"}, "attention 'sdpa' is unknown: use auto, eager or flash"),
        ({"device": "tpu"}, "device 'tpu' is unknown"),
    ],
)
def test_settings_that_cannot_be_met_say_why(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SetupError, match=message):
        Qwen2VLModel(**settings)


def test_without_our_library_pages_are_read_eager_and_it_is_said_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "_cpu.so")
    with pytest.warns(
        RuntimeWarning,
        match=r"attention runs eager: Not supported \(_cpu.so is not built, so reading is several times slower",
    ):
        model = Qwen2VLModel()
    golden = case("line_392x28")
    assert model.generate(golden["messages"]).token_ids == golden["token_ids"]


def test_the_attention_can_be_switched_at_run_time() -> None:
    model = Qwen2VLModel()
    golden = case("line_392x28")
    for config, name in (
        (CacheConfig(auto_detect_flash_attention=False), "eager"),
        (CacheConfig(), "flash" if native.available()[0] else "eager"),
    ):
        model.update_cache_config(config)
        assert model.get_model_info()["attn_implementation"] == name
        assert model.generate(golden["messages"]).token_ids == golden["token_ids"]


def test_model_info_has_the_documents_keys_and_says_what_attention_runs_and_why(model: Qwen2VLModel) -> None:
    info = model.get_model_info()
    assert {
        "model_name",
        "device",
        "kv_cache_enabled",
        "flash_attention_enabled",
        "flash_attention_support",
        "flash_attention_reason",
        "attn_implementation",
        "compilations",
    } <= info.keys()
    supported, reason = detect_flash_attention_support("cpu")
    assert (info["device"], info["flash_attention_support"], info["flash_attention_reason"]) == ("cpu", supported, reason)
    assert (info["attn_implementation"], info["flash_attention_enabled"]) == ("flash" if supported else "eager", supported)
