"""Tests of prefix reuse by the model: what is reused and counted, and that results stay bitwise the same."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mindnlp_ocr.cache.config import CacheConfig
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
from mindnlp_ocr.ops import native
from tests.conftest import case, logit_bits, run, run_together

same_bits = pytest.mark.skipif(not native.available()[0], reason="the same bits are promised on our CPU operators only")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def fresh(model: Qwen2VLModel) -> Iterator[Qwen2VLModel]:
    """The shared model with an empty cache and reset statistics."""
    model.clear_cache()
    model.reset_cache_stats()
    yield model
    model.engine.manager.check_integrity()
    model.clear_cache()


def ask(image: Any, *texts: str) -> list[dict[str, Any]]:
    """Create a chat of an image and a question, followed by alternating answers and questions."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "image", "image": image}]}]
    messages[0]["content"].append({"type": "text", "text": texts[0]})
    for answer, question in zip(texts[1::2], texts[2::2], strict=True):
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": question}]
    return messages


# What is reused


def test_a_second_question_about_an_image_runs_neither_vision_nor_its_prefill(
    fresh: Qwen2VLModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = "tests/pages/line_400x60.png"
    alone = run(fresh, ask(page, "What is the first word?"), 6)
    fresh.clear_cache()
    run(fresh, ask(page, "Extract all text from this image."), 6)
    graphs = fresh.engine.graphs
    prefilled: list[int] = []
    prefill = graphs.prefill
    monkeypatch.setattr(graphs, "vision", lambda *_: pytest.fail("the vision tower ran"))
    monkeypatch.setattr(graphs, "prefill", lambda part: prefilled.append(len(part.token_ids)) or prefill(part))
    second = run(fresh, ask(page, "What is the first word?"), 6)
    image = second.key.images[0]
    assert second.reused >= image.end
    assert prefilled == [len(second.key) - second.reused]
    assert second.token_ids == alone.token_ids
    assert fresh.get_cache_stats()["hit_rate"] == "33.33%"  # two misses, a hit


def test_an_identical_request_reuses_all_but_the_last_token(fresh: Qwen2VLModel) -> None:
    messages = case("line_400x60")["messages"]
    first, second = (fresh.generate(messages) for _ in range(2))
    assert (first.reused_tokens, second.reused_tokens) == (0, second.prompt_tokens - 1)
    assert second.token_ids == first.token_ids == case("line_400x60")["token_ids"]
    assert fresh.get_cache_stats()["cache_items"] == 1  # the older one is contained in the newer


def test_a_chat_reuses_its_history_and_the_answers_in_it(fresh: Qwen2VLModel) -> None:
    page = "tests/pages/line_400x60.png"
    first = fresh.generate(ask(page, "Extract all text from this image."))
    second = fresh.generate(ask(page, "Extract all text from this image.", first.text, "Again, please."), 5)
    assert second.reused_tokens >= first.prompt_tokens + first.new_tokens - 2


@same_bits
def test_what_the_template_puts_ahead_of_an_image_is_computed_once_and_has_its_bits(
    fresh: Qwen2VLModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    off = Qwen2VLModel(cache_config=CacheConfig(enable_kv_cache=False))
    prefilled: list[tuple[int, int]] = []
    prefill = fresh.engine.graphs.prefill
    monkeypatch.setattr(
        fresh.engine.graphs,
        "prefill",
        lambda *parts: prefilled.extend((part.cached, len(part.token_ids)) for part in parts) or prefill(*parts),
    )
    system = [{"role": "system", "content": "Read."}, *case("line_392x28")["messages"]]
    run(fresh, system, 1)  # so that another template is known
    fresh.clear_cache()
    for number, name in enumerate(("line_392x28", "word_56x56", "zh_line_336x34")):
        generation = run(fresh, case(name)["messages"], 6)
        ahead = generation.key.images[0].start
        assert prefilled.pop() == ((ahead, len(generation.key) - ahead) if number else (0, len(generation.key)))
        assert logit_bits(generation) == logit_bits(run(off, case(name)["messages"], 6))
        assert generation.reused == 0  # no hit
    generation = run(fresh, system, 3)  # the other template
    assert prefilled.pop()[0] == 0
    assert logit_bits(generation) == logit_bits(run(off, system, 3))


def test_images_that_differ_in_one_pixel_share_nothing_of_the_image(fresh: Qwen2VLModel) -> None:
    pixels = np.asarray(Image.open("tests/pages/line_400x60.png").convert("RGB")).copy()
    one = run(fresh, ask(pixels.copy(), "Extract all text from this image."), 3)
    pixels[30, 200] ^= 255
    two = run(fresh, ask(pixels, "Extract all text from this image."), 3)
    assert two.reused == 0
    assert one.key.images[0].digest != two.key.images[0].digest
    assert fresh.get_cache_stats()["cache_hits"] == 0


def test_the_template_that_all_pages_share_is_no_hit(fresh: Qwen2VLModel) -> None:
    for name in ("line_392x28", "line_400x60", "word_56x56"):
        assert fresh.generate(case(name)["messages"], 2).reused_tokens == 0
    assert fresh.get_cache_stats()["cache_hits"] == 0


def test_features_are_kept_when_the_keys_and_values_are_gone(fresh: Qwen2VLModel, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = case("line_400x60")
    fresh.generate(golden["messages"], 3)
    others = "word_56x56 line_392x28 small_48x30 zh_line_336x34 alpha_308x140 mono_448x210 odd_301x173 tall_126x644"
    for name in others.split():
        fresh.generate(case(name)["messages"], 1)
    monkeypatch.setattr(fresh.engine.graphs, "vision", lambda *_: pytest.fail("the vision tower ran"))
    again = fresh.generate(golden["messages"])
    assert (again.reused_tokens, again.token_ids) == (0, golden["token_ids"])
    stats = fresh.get_cache_stats()
    assert (stats["feature_hits"], stats["evictions"]) == (1, 2)


def test_an_entry_expires_after_its_time() -> None:
    model = Qwen2VLModel(cache_config=CacheConfig(cache_ttl_seconds=10, slots=1))
    manager = model.engine.manager
    assert manager is not None
    manager._clock = clock = Clock()
    messages = case("word_56x56")["messages"]
    model.infer(messages)
    clock.now = 9.9
    assert model.generate(messages).reused_tokens > 0
    clock.now = 19.8  # used at 9.9
    assert model.generate(messages).reused_tokens > 0
    clock.now = 30.0
    assert model.generate(messages).reused_tokens == 0
    # The entry and the features of its image expired; twice the only slot was taken over, and the answer in it lost.
    assert model.get_cache_stats()["evictions_by_cause"] == {"lru": 2, "ttl": 2, "resize": 0}


def test_without_lru_what_does_not_fit_is_refused_and_counted() -> None:
    model = Qwen2VLModel(cache_config=CacheConfig(enable_lru=False, slots=2))
    names = ("word_56x56", "line_392x28", "small_48x30")
    for name in names:
        assert model.generate(case(name)["messages"]).token_ids == case(name)["token_ids"]
    stats = model.get_cache_stats()
    assert (stats["cache_items"], stats["refused"], stats["evictions"]) == (1, 2, 0)
    assert model.generate(case("word_56x56")["messages"]).reused_tokens > 0  # the first one in stays


# What is counted


def test_statistics_have_the_documented_keys_and_are_counted_and_reset(fresh: Qwen2VLModel) -> None:
    messages = case("word_56x56")["messages"]
    for _ in range(4):
        fresh.infer(messages)
    stats = fresh.get_cache_stats()
    assert list(stats.items())[:7] == [
        ("total_requests", 4),
        ("cache_hits", 3),
        ("cache_misses", 1),
        ("hit_rate", "75.00%"),
        ("total_memory_mb", f"{(stats['kv_bytes'] + stats['feature_bytes']) / 2**20:.2f}MB"),
        ("evictions", 0),
        ("cache_items", 1),
    ]
    prompt = len(case("word_56x56")["prompt_ids"])
    assert (stats["tokens_reused"], stats["tokens_computed"]) == (3 * (prompt - 1), prompt + 3)
    assert stats["kv_bytes"] == 8 * 2048 * 6 * 2 * 2 * 64 * 4
    assert stats["feature_bytes"] == 4 * 384 * 4  # four tokens, float32
    fresh.clear_cache()
    fresh.reset_cache_stats()
    stats = fresh.get_cache_stats()
    assert (stats["total_requests"], stats["cache_items"], stats["feature_bytes"]) == (0, 0, 0)
    assert stats["slots"] == {"free": 8, "live": 0, "cached": 0}


def test_a_budget_below_one_slot_names_the_bytes_and_the_old_settings_stay(model: Qwen2VLModel) -> None:
    refused = r"1 KV slot of 2048 tokens need 12582912 bytes, but max_cache_size_mb is 5: use at least 12.0, or fewer slots"
    with pytest.raises(SetupError, match=refused):
        Qwen2VLModel(cache_config=CacheConfig(max_cache_size_mb=5))
    with pytest.raises(SetupError, match=refused):
        model.update_cache_config(CacheConfig(max_cache_size_mb=5))
    with pytest.raises(SetupError, match=r"40 KV slots of 2048 tokens need 503316480 bytes, .* is 100: use at least 480.0"):
        model.update_cache_config(CacheConfig(max_cache_size_mb=100, slots=40))
    assert model.get_model_info()["kv_cache_enabled"] is True
    assert model.get_model_info()["kv_slots"] == 8


def test_bfloat16_slots_under_eager_attention_are_refused_on_a_cpu() -> None:
    with pytest.raises(SetupError, match="kv_dtype bf16 needs our operators on a CPU, and attention runs eager: use fp32"):
        Qwen2VLModel(attn="eager", cache_config=CacheConfig(kv_dtype="bf16"))


# The same bits


@same_bits
def test_whatever_is_reused_tokens_and_log_probabilities_are_the_same_bits() -> None:
    """80 requests in random order: cache off, cold, hits of every kind, evicted, in batches of any neighbours."""
    pages = ["word_56x56", "line_392x28", "line_400x60", "zh_line_336x34"]
    questions = ["Extract all text from this image.", "What is the last word?", "Is this Chinese?"]
    requests = [ask(f"tests/pages/{page}.png", question) for page in pages for question in questions]
    requests += [ask(f"tests/pages/{page}.png", questions[0], "It says hello.", questions[1]) for page in pages]
    requests += [case("two_images")["messages"], case("text_only")["messages"]]
    off = Qwen2VLModel(cache_config=CacheConfig(enable_kv_cache=False))
    expected = [logit_bits(run(off, messages, 6)) for messages in requests]

    chance = random.Random(0)
    model = Qwen2VLModel(cache_config=CacheConfig(slots=5, max_cache_size_mb=60.2))
    manager = model.engine.manager
    assert manager is not None
    done = 0
    while done < 80:
        numbers = chance.choices(range(len(requests)), k=chance.choice([1, 1, 2, 3, 5, 8]))
        batch_size = chance.randint(1, 5)
        generations = [model.requests.generation(requests[number], 6) for number in numbers]
        for generation in generations:
            generation.steps = []
        run_together(model, generations, batch_size)
        for order, number in enumerate(numbers):
            assert logit_bits(generations[order]) == expected[number], (number, generations[order].reused)
        manager.check_integrity()
        done += len(numbers)
        if chance.random() < 0.05:
            model.clear_cache()
    stats = model.get_cache_stats()
    assert stats["cache_hits"] > 30
    assert stats["cache_misses"] > 30
    assert stats["evictions_by_cause"]["lru"] > 30
    assert stats["feature_hits"] > 5


@same_bits
@pytest.mark.parametrize("kv_dtype", ["fp16", "bf16"])
def test_slots_of_16_bits_give_the_same_bits_cached_or_not(kv_dtype: str) -> None:
    off = Qwen2VLModel(cache_config=CacheConfig(enable_kv_cache=False, kv_dtype=kv_dtype))
    on = Qwen2VLModel(cache_config=CacheConfig(kv_dtype=kv_dtype))
    assert on.get_cache_stats()["kv_bytes"] == 8 * 6 * 2**20
    assert on.get_model_info()["kv_dtype"] == kv_dtype
    for name in ("line_400x60", "receipt"):
        expected = logit_bits(run(off, case(name)["messages"], 6))
        assert logit_bits(run(on, case(name)["messages"], 6)) == expected  # cold
        assert logit_bits(run(on, case(name)["messages"], 6)) == expected  # hit
    for name in ("receipt", "zh_text_448x308"):
        assert on.generate(case(name)["messages"]).token_ids == case(name)["token_ids"]
