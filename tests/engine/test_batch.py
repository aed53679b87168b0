"""Tests of batches: the same tokens as alone, isolated errors, and release of slots."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mindnlp_ocr.cache.config import CacheConfig
from mindnlp_ocr.engine.generate import Reading
from mindnlp_ocr.errors import BatchError, PageError, SetupError
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
from mindnlp_ocr.ops import native
from tests.conftest import CASES, case, logit_bits, run

with_library = pytest.mark.skipif(not native.available()[0], reason=native.available()[1])


@pytest.mark.parametrize(("batch_size", "longest"), [(2, 300), (8, 50)])
def test_pages_of_all_sizes_read_together_give_the_golden_tokens(model: Qwen2VLModel, batch_size: int, longest: int) -> None:
    model.clear_cache()
    cases = [c for c in CASES if len(c["token_ids"]) <= longest]
    results = dict(model.generate_batch([c["messages"] for c in cases], batch_size=batch_size))
    for number, golden in enumerate(cases):
        reading = results[number]
        assert isinstance(reading, Reading), reading
        assert reading.token_ids[: len(golden["token_ids"])] == golden["token_ids"], golden["name"]
    assert model.get_cache_stats()["slots"]["live"] == 0


def test_texts_come_in_the_order_of_the_messages_however_they_end(model: Qwen2VLModel) -> None:
    names = ["odd_301x173", "word_56x56", "line_392x28", "small_48x30"]
    assert model.infer_batch([case(n)["messages"] for n in names], batch_size=3) == [case(n)["text"] for n in names]
    order = [number for number, _ in model.generate_batch([case(n)["messages"] for n in names], batch_size=4)]
    assert order[0] == 1  # the shortest text ends first, and does not wait for the others
    assert sorted(order) == [0, 1, 2, 3]


def test_a_request_that_ends_makes_room_for_the_next_while_others_go_on(model: Qwen2VLModel) -> None:
    model.clear_cache()
    events: list[str] = []

    def messages() -> Any:
        for name in ("invoice", "word_56x56", "line_392x28"):
            events.append(f"taken {name}")
            yield case(name)["messages"]

    for number, _ in model.generate_batch(messages(), batch_size=2):
        events.append(f"ended {number}")
    assert events == ["taken invoice", "taken word_56x56", "ended 1", "taken line_392x28", "ended 2", "ended 0"]


def test_a_batch_waits_for_room_in_the_queue(model: Qwen2VLModel, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["word_56x56", "line_392x28", "small_48x30", "zh_line_336x34"]
    monkeypatch.setattr(model.scheduler, "config", replace(model.scheduler.config, max_waiting=1))
    assert model.infer_batch([case(n)["messages"] for n in names], batch_size=4) == [case(n)["text"] for n in names]
    monkeypatch.setattr(model.scheduler, "config", replace(model.scheduler.config, max_waiting=0))
    refused = dict(model.generate_batch([case(names[0])["messages"]]))
    assert str(refused[0]) == "0 requests wait, but max_waiting is 0: try again later, or raise it"


def test_failing_pages_harm_no_other_and_free_their_slots(model: Qwen2VLModel, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path("tests/pages/line_400x60.png").read_bytes()[:300])
    bad = [{"role": "user", "content": [{"type": "image", "image": str(broken)}, {"type": "text", "text": "OCR"}]}]
    long = [{"role": "user", "content": "word " * 3000}]
    batch = [case("word_56x56")["messages"], bad, case("line_392x28")["messages"], long, case("small_48x30")["messages"]]
    with pytest.raises(
        BatchError, match=rf"2 of 5 pages could not be read, the first at index 1 \({broken} is truncated"
    ) as error:
        model.infer_batch(batch, batch_size=2)
    results = error.value.results
    assert [type(result) for result in results] == [Reading, PageError, Reading, PageError, Reading]
    assert [results[0].text, results[2].text, results[4].text] == [
        case(name)["text"] for name in ("word_56x56", "line_392x28", "small_48x30")
    ]
    assert model.get_cache_stats()["slots"]["live"] == 0


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("graph", ["vision", "prefill", "decode"])
def test_a_device_that_fails_on_one_page_fails_that_page_alone(
    model: Qwen2VLModel, monkeypatch: pytest.MonkeyPatch, graph: str, batch_size: int
) -> None:
    names = ["word_56x56", "line_392x28", "small_48x30"]
    model.clear_cache()
    graphs = model.engine.graphs
    sound = getattr(graphs, graph)
    victim = model.processor.prompt(case("line_392x28")["messages"])
    pixels = len(victim.images[0].patches().pixels)

    def failing(first: Any, *rest: Any) -> Any:
        mine = {
            "vision": lambda: any(len(image.pixels) == pixels for image in first),
            "prefill": lambda: any(part.cached + len(part.token_ids) == len(victim.token_ids) for part in (first, *rest)),
            "decode": lambda: any(new.cached >= len(victim.token_ids) for new in first),
        }[graph]()
        if mine:
            raise PageError("the device is on fire")
        return sound(first, *rest)

    monkeypatch.setattr(graphs, graph, failing)
    results = dict(model.generate_batch([case(name)["messages"] for name in names], batch_size=batch_size))
    assert str(results[1]) == "the device is on fire"
    for number in (0, 2):
        assert results[number].token_ids == case(names[number])["token_ids"]
    monkeypatch.undo()
    assert model.get_cache_stats()["slots"]["live"] == 0
    model.engine.manager.check_integrity()
    assert model.infer(case("line_392x28")["messages"]) == case("line_392x28")["text"]


def test_closing_a_stream_frees_its_slot_at_once_and_keeps_what_was_read(model: Qwen2VLModel) -> None:
    model.clear_cache()
    golden = case("line_400x60")
    stream = model.stream(golden["messages"])
    assert golden["text"].startswith(next(stream))
    assert model.get_cache_stats()["slots"] == {"free": 7, "live": 1, "cached": 0}
    stream.close()
    assert model.get_cache_stats()["slots"] == {"free": 7, "live": 0, "cached": 1}
    again = model.generate(golden["messages"])
    assert again.token_ids == golden["token_ids"]
    assert again.reused_tokens == again.prompt_tokens - 1


def test_abandoning_a_batch_frees_all_its_slots(model: Qwen2VLModel) -> None:
    batch = model.generate_batch([case(name)["messages"] for name in ("word_56x56", "letter", "receipt")], batch_size=3)
    next(batch)
    assert model.get_cache_stats()["slots"]["live"] == 2
    batch.close()
    assert model.get_cache_stats()["slots"]["live"] == 0


def test_streams_interleaved_by_hand_do_not_disturb_one_another(model: Qwen2VLModel) -> None:
    model.clear_cache()
    names = ["line_400x60", "zh_line_336x34"]
    streams = [model.stream(case(name)["messages"]) for name in names]
    texts = ["", ""]
    while any(pieces := [next(stream, None) for stream in streams]):
        texts = [text + (piece or "") for text, piece in zip(texts, pieces, strict=True)]
    assert texts == [case(name)["text"] for name in names]


def test_a_stream_that_nobody_reads_holds_up_no_other_request() -> None:
    model = Qwen2VLModel(cache_config=CacheConfig(slots=1))
    stream = model.stream(case("line_400x60")["messages"])
    begun = next(stream)
    assert model.infer(case("word_56x56")["messages"]) == case("word_56x56")["text"]
    assert begun + "".join(stream) == case("line_400x60")["text"]


def test_threads_wait_for_a_slot_and_all_get_their_tokens() -> None:
    model = Qwen2VLModel(cache_config=CacheConfig(slots=2))
    names = ["word_56x56", "line_392x28", "small_48x30", "line_400x60", "zh_line_336x34"]
    read: dict[str, list[int]] = {}

    def work(name: str) -> None:
        read[name] = model.generate(case(name)["messages"]).token_ids

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert read == {name: case(name)["token_ids"] for name in names}
    assert model.engine.manager is not None
    model.engine.manager.check_integrity()


def test_a_batch_larger_than_the_slots_names_the_settings_that_would_do(model: Qwen2VLModel) -> None:
    with pytest.raises(
        SetupError,
        match=r"batch_size is 9, but there are only 8 KV slots: use at most 8, or "
        r"CacheConfig\(slots=9\) and a max_cache_size_mb of at least 108",
    ):
        model.infer_batch([case("word_56x56")["messages"]], batch_size=9)
    with pytest.raises(SetupError, match="batch_size is 0: use 1 or more"):
        model.infer_batch([], batch_size=0)
    assert model.infer_batch([]) == []


def test_a_batch_without_a_cache_gives_the_same_tokens() -> None:
    model = Qwen2VLModel(cache_config=CacheConfig(enable_kv_cache=False))
    names = ["word_56x56", "line_392x28"]
    assert model.infer_batch([case(n)["messages"] for n in names]) == [case(n)["text"] for n in names]


@with_library
def test_slots_can_be_resized_under_a_running_request_which_keeps_its_bits() -> None:
    golden = case("line_400x60")
    model = Qwen2VLModel(cache_config=CacheConfig(slots=4))
    expected = logit_bits(run(model, golden["messages"]))
    model.clear_cache()
    for name in ("word_56x56", "line_392x28"):  # so that the request's slot is a high one
        model.infer(case(name)["messages"])
    generation = model.requests.generation(golden["messages"], None)
    generation.steps = []
    tokens = model.scheduler.run(generation)
    for slots in (4, 1, 6, 2):
        next(tokens)
        model.update_cache_config(CacheConfig(slots=slots))
        assert model.get_model_info()["kv_slots"] == slots
        assert model.engine.manager is not None
        model.engine.manager.check_integrity()
    assert len(list(tokens)) == len(golden["token_ids"]) - 4
    assert logit_bits(generation) == expected
    stats = model.get_cache_stats()
    assert stats["evictions_by_cause"]["resize"] >= 2
    assert model.generate(golden["messages"]).reused_tokens > 0


def test_settings_that_forget_everything_wait_until_no_request_runs(model: Qwen2VLModel) -> None:
    stream = model.stream(case("line_400x60")["messages"])
    next(stream)
    for config in (CacheConfig(enable_kv_cache=False), CacheConfig(kv_dtype="fp16")):
        with pytest.raises(
            SetupError, match="update_cache_config: 1 requests are running: wait until they end, or close them"
        ):
            model.update_cache_config(config)
    with pytest.raises(SetupError, match="warm_up: 1 requests are running"):
        model.warm_up()
    assert "".join(stream) in case("line_400x60")["text"]
    assert model.get_model_info()["kv_dtype"] == "fp32"


def test_a_forecast_names_what_a_page_will_need_before_it_runs(model: Qwen2VLModel) -> None:
    golden = case("receipt")
    requests = model.get_cache_stats()["total_requests"]
    needs = model.forecast(golden["messages"], max_new_tokens=100)
    prompt = len(golden["prompt_ids"])
    _, rows, columns = golden["image_grid_thw"][0]
    assert (needs.prompt_tokens, needs.patches, needs.max_tokens) == (prompt, rows * columns, prompt + 100)
    assert needs.kv_bytes == (prompt + 100) * 6 * 2 * 2 * 64 * 4
    assert needs.fits
    assert model.get_cache_stats()["total_requests"] == requests
    assert model.forecast(case("text_only")["messages"]).patches == 0
