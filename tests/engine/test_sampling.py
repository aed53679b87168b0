"""Settings of single requests on the built-in checkpoint: what they change, what they leave alone, and that nothing but the
request decides its text."""

import json
from typing import Any

import numpy as np
import pytest

from mindnlp_ocr.engine.generate import Reading
from mindnlp_ocr.engine.graphs import Step
from mindnlp_ocr.engine.scheduler import SchedulerConfig
from mindnlp_ocr.errors import PageError
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
from mindnlp_ocr.models.requests import Request
from mindnlp_ocr.ops import native
from mindnlp_ocr.sampling import SamplingParams
from tests.conftest import case, logit_bits, run

with_library = pytest.mark.skipif(not native.available()[0], reason=native.available()[1])

LINE = case("line_400x60")
HOT = SamplingParams(temperature=2.0, seed=7, max_new_tokens=24)


def read(model: Qwen2VLModel, name: str, **settings: Any) -> Reading:
    return model.generate(case(name)["messages"], sampling=SamplingParams(**settings))


# Seeds


def test_a_seed_gives_the_same_text_alone_in_any_batch_and_whatever_is_cached(model: Qwen2VLModel) -> None:
    names = ["line_400x60", "word_56x56", "zh_line_336x34", "line_392x28", "small_48x30"]
    model.clear_cache()
    alone = {name: read(model, name, temperature=2.0, seed=7, max_new_tokens=24) for name in names}
    assert read(model, "line_400x60", temperature=2.0, seed=8, max_new_tokens=24).text != alone["line_400x60"].text
    for order, batch_size in ((names, 5), (names[::-1], 2)):
        model.clear_cache()
        requests = [Request(case(name)["messages"], sampling=HOT) for name in order] + [Request(LINE["messages"])]
        read_together = dict(model.generate_batch(requests, batch_size=batch_size))
        for number, name in enumerate(order):
            reading = read_together[number]
            assert isinstance(reading, Reading)
            assert reading.token_ids == alone[name].token_ids
        greedy = read_together[len(order)]  # beside the others
        assert isinstance(greedy, Reading)
        assert greedy.token_ids == LINE["token_ids"]
    cached = read(model, "line_400x60", temperature=2.0, seed=7, max_new_tokens=24)
    assert cached.reused_tokens == cached.prompt_tokens - 1
    assert cached.token_ids == alone["line_400x60"].token_ids


def test_without_a_seed_texts_differ(model: Qwen2VLModel) -> None:
    """At this temperature every token of the vocabulary is about as probable as another."""
    assert len({read(model, "line_400x60", temperature=1e4, max_new_tokens=16).text for _ in range(2)}) == 2


# Settings that look at logits


def test_greedy_from_the_logits_gives_the_tokens_of_the_fused_operator(model: Qwen2VLModel) -> None:
    """``top_logprobs`` alone takes the path through the sampler."""
    for name in ("line_400x60", "zh_text_448x308", "odd_301x173"):
        golden = case(name)
        fused, sampled = model.generate(golden["messages"]), read(model, name, logprobs=True, top_logprobs=3)
        assert sampled.token_ids == fused.token_ids == golden["token_ids"]
        np.testing.assert_allclose(sampled.logprobs, fused.logprobs, atol=1e-5)
        assert [len(top) for top in sampled.top_logprobs] == [3] * len(sampled.token_ids)
        assert [top[0] for top in sampled.top_logprobs] == list(zip(sampled.token_ids, sampled.logprobs, strict=True))
        assert fused.top_logprobs == []


def test_penalties_and_bans_change_the_text_as_their_arithmetic_says(model: Qwen2VLModel) -> None:
    """Against the rules written out over the logits of every step."""
    generation = model.requests.generation(
        case("receipt")["messages"], 60, SamplingParams(repetition_penalty=1.7, frequency_penalty=1.5, presence_penalty=2.0)
    )
    generation.steps = []
    list(model.scheduler.run(generation))
    assert generation.token_ids != case("receipt")["token_ids"][:60]
    for number, (step, token) in enumerate(zip(generation.steps, generation.token_ids, strict=True)):
        logits = step.numpy().astype(np.float64)
        ids, counts = np.unique(generation.token_ids[:number], return_counts=True)
        ids = ids.astype(int)
        logits[ids] = np.where(logits[ids] < 0, logits[ids] * 1.7, logits[ids] / 1.7) - 1.5 * counts - 2
        assert token == int(logits.argmax())


def test_an_ngram_is_not_generated_twice_and_a_bad_word_not_at_all(model: Qwen2VLModel) -> None:
    plain = model.generate(case("receipt")["messages"])
    pairs = list(zip(plain.token_ids, plain.token_ids[1:], strict=False))
    assert len(set(pairs)) < len(pairs)
    banned = read(model, "receipt", no_repeat_ngram_size=2, max_new_tokens=150)
    pairs = list(zip(banned.token_ids, banned.token_ids[1:], strict=False))
    assert len(set(pairs)) == len(pairs)
    word = LINE["text"].split()[0]
    ids = model.processor.tokenizer.encode(word, add_special_tokens=False).ids
    assert LINE["token_ids"][: len(ids)] == ids
    tokens = read(model, "line_400x60", bad_words=[word]).token_ids  # the same letters in other tokens are not banned
    assert all(tokens[i : i + len(ids)] != ids for i in range(len(tokens)))


def test_a_minimum_of_tokens_keeps_the_text_from_ending(model: Qwen2VLModel) -> None:
    reading = read(model, "word_56x56", min_new_tokens=12, max_new_tokens=20)
    assert len(reading.token_ids) >= 12
    assert not set(reading.token_ids[:12]) & set(model.config.eos_token_ids)


def test_a_schema_is_followed(model: Qwen2VLModel) -> None:
    pytest.importorskip("llguidance")
    schema = {
        "type": "object",
        "properties": {"total": {"type": "string", "maxLength": 20}, "items": {"type": "integer", "maximum": 99}},
        "required": ["total", "items"],
        "additionalProperties": False,
    }
    reading = read(model, "receipt", json_schema=schema, max_new_tokens=200)
    assert reading.finish_reason == "stop"
    answer = json.loads(reading.text)
    assert set(answer) == {"total", "items"}
    assert answer["items"] <= 99
    assert read(model, "receipt", regex=r"[0-9]{4}-[A-C]{2}").text[4] == "-"


def test_settings_that_exclude_each_other_fail_their_request_alone(model: Qwen2VLModel) -> None:
    every = [model.decode([token]) for token in range(model.config.vocab_size)]
    impossible = SamplingParams(regex="x", bad_words=["x"]) if "x" in every else None
    assert impossible is not None
    requests = [Request(LINE["messages"], sampling=impossible), Request(LINE["messages"])]
    results = dict(model.generate_batch(requests, batch_size=2))
    assert "no token is allowed at position 0" in str(results[0])
    good = results[1]
    assert isinstance(good, Reading)
    assert good.token_ids == LINE["token_ids"]
    with pytest.raises(PageError, match="stop_token_ids contains 99999999, but the model has"):
        read(model, "line_400x60", stop_token_ids=[99999999])


# Where a text ends


def test_a_stop_string_ends_the_text_and_no_part_of_it_is_shown(model: Qwen2VLModel) -> None:
    model.clear_cache()
    words = LINE["text"].split()
    stop = " ".join(words[2:4])
    kept = LINE["text"][: LINE["text"].index(stop)]
    reading = read(model, "line_400x60", stop=[stop, "never"])
    assert (reading.text, reading.finish_reason, reading.stop_reason) == (kept, "stop", stop)
    assert reading.token_ids == LINE["token_ids"][: len(reading.token_ids)]
    pieces = list(model.stream(LINE["messages"], sampling=SamplingParams(stop=stop)))
    assert "".join(pieces) == kept
    assert read(model, "line_400x60", stop=stop, include_stop_str_in_output=True).text == kept + stop
    again = model.generate(LINE["messages"])  # what the burst computed beyond the stop is not taken for the text
    assert again.token_ids == LINE["token_ids"]


def test_a_stop_token_ends_the_text_in_the_middle_of_a_burst(model: Qwen2VLModel) -> None:
    token = LINE["token_ids"][6]
    reading = read(model, "line_400x60", stop_token_ids=[token])
    first = LINE["token_ids"].index(token)
    assert reading.token_ids == LINE["token_ids"][: first + 1]
    assert (reading.finish_reason, reading.stop_reason) == ("stop", token)


def test_the_end_of_text_can_be_ignored(model: Qwen2VLModel) -> None:
    reading = read(model, "word_56x56", ignore_eos=True, max_new_tokens=10)
    golden = case("word_56x56")["token_ids"]
    assert (reading.token_ids[: len(golden)], len(reading.token_ids)) == (golden, 10)
    assert reading.finish_reason == "length"
    shown = read(model, "word_56x56", skip_special_tokens=False).text
    assert shown == case("word_56x56")["text"] + model.processor.tokenizer.id_to_token(golden[-1])


def test_a_text_that_repeats_itself_without_end_is_cut_to_the_first_time(
    model: Qwen2VLModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decode graph writes one word over and over; with ``repetition_guard`` off it does so up to the limit."""
    word = model.processor.tokenizer.encode("again and ", add_special_tokens=False).ids
    made = 0

    def loop(new: Any) -> list[Step]:
        nonlocal made
        steps = []
        for row, token in enumerate(new):
            count = min(token.wanted, 32)
            steps.append(Step([word[(made + i) % len(word)] for i in range(count)], [0.0] * count, None, row))  # type: ignore[arg-type]
            made += count
        return steps

    monkeypatch.setattr(model.engine.graphs, "decode", loop)
    reading = read(model, "word_56x56", max_new_tokens=1500)
    assert reading.finish_reason == "repetition"
    assert reading.text == model.decode(reading.token_ids)
    assert reading.text.count("again and") == 1
    assert len(reading.logprobs) == len(reading.token_ids) < 10
    made = 0
    raw = read(model, "word_56x56", max_new_tokens=1500, repetition_guard=False)
    assert (raw.finish_reason, len(raw.token_ids)) == ("length", 1500)
    model.clear_cache()


# Prompts beside texts


@with_library
def test_a_prompt_that_is_cut_beside_a_growing_text_has_the_bits_of_one_that_is_not() -> None:
    model = Qwen2VLModel()
    golden = case("notice_zh")
    expected = logit_bits(run(model, golden["messages"], 12))
    model.clear_cache()
    model.scheduler.config = SchedulerConfig(stall_ms=0.0)  # the smallest pieces
    pieces: list[int] = []
    prefill = model.engine.graphs.prefill
    model.engine.graphs.prefill = lambda *parts: pieces.extend(len(p.token_ids) for p in parts) or prefill(*parts)  # type: ignore[func-returns-value]
    stream = model.stream(case("invoice")["messages"])
    begun = next(stream)
    pieces.clear()
    generation = run(model, golden["messages"], 12)
    assert logit_bits(generation) == expected
    assert len(pieces) > 3
    assert max(pieces) <= 64
    preamble = generation.key.images[0].start
    assert sum(pieces) == len(generation.key) - preamble  # known of the first page
    assert begun + "".join(stream) == case("invoice")["text"]


def test_requests_that_are_submitted_are_read_together_and_can_be_cancelled(model: Qwen2VLModel) -> None:
    names = ["line_400x60", "word_56x56", "receipt"]
    handles = [model.submit(case(name)["messages"]) for name in names]
    handles[2].cancel()
    with pytest.raises(PageError, match="the request was cancelled"):
        handles[2].result()
    for name, handle in zip(names[:2], handles[:2], strict=True):
        assert "".join(handle.pieces()) == handle.result().text == case(name)["text"]
        assert handle.token_ids == case(name)["token_ids"]
    with model.serving():
        handle = model.submit(LINE["messages"], SamplingParams(max_new_tokens=5))
        assert handle.result(60).token_ids == LINE["token_ids"][:5]
    assert model.get_cache_stats()["slots"]["live"] == 0


def test_tokens_that_a_graph_samples_are_those_of_the_host() -> None:
    """The way of an NPU, whose logits stay on the device, over MindSpore's own operators on the CPU."""
    model = Qwen2VLModel(attn="eager")
    asked: list[int] = []
    sample = model.engine.graphs.sample
    model.engine.graphs.sample = lambda logits, rows: asked.append(len(rows)) or sample(logits, rows)  # type: ignore[method-assign, func-returns-value]
    settings: list[dict[str, Any]] = [
        {"temperature": 1.5, "seed": 3, "top_p": 0.9},
        {"repetition_penalty": 1.7, "presence_penalty": 1.0, "no_repeat_ngram_size": 2},
        {"temperature": 2.0, "seed": 4, "top_k": 20, "min_p": 0.01, "min_new_tokens": 5},
    ]
    requests = [
        Request(case(name)["messages"], 14, SamplingParams(**each))
        for name, each in zip(("line_400x60", "line_392x28", "word_56x56"), settings, strict=True)
    ]
    expected = dict(model.generate_batch([*requests, LINE["messages"]], 14))
    assert not asked
    model.engine.graphs.backends.text.samples_in_graph = True
    model.clear_cache()
    found = dict(model.generate_batch([*requests, LINE["messages"]], 14))
    for number in range(4):
        ours, theirs = found[number], expected[number]
        assert isinstance(ours, Reading)
        assert isinstance(theirs, Reading)
        assert ours.token_ids == theirs.token_ids
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)
    assert len(asked) > 10
