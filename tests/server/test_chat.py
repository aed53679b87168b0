"""``POST /v1/chat/completions`` as a client sees it; the model is a fake, so nothing is read."""

import json
from typing import Any

import httpx

from tests.server.fake import TEXT, FakeModel
from tests.server.shapes import NAME, asked, data_url, page, png
from tests.server.started import Started

PATH = "/v1/chat/completions"


# Answers


def test_an_answer_has_what_openai_clients_read(http: httpx.Client) -> None:
    answer = http.post(PATH, json=asked())
    assert answer.status_code == 200
    body = answer.json()
    assert body["id"].startswith("chatcmpl-")
    assert (body["object"], body["model"]) == ("chat.completion", NAME)
    (choice,) = body["choices"]
    assert choice["index"] == 0
    assert choice["message"] == {"role": "assistant", "content": TEXT, "refusal": None}
    assert (choice["finish_reason"], choice["logprobs"]) == ("stop", None)
    used = body["usage"]
    assert used["total_tokens"] == used["prompt_tokens"] + used["completion_tokens"]
    assert used["prompt_tokens_details"]["cached_tokens"] == 5


def test_the_image_and_the_text_reach_the_engine_in_order(http: httpx.Client, fake: FakeModel) -> None:
    first, second = png(30, 20), png(20, 30)
    parts = [
        {"type": "text", "text": "first"},
        {"type": "image_url", "image_url": {"url": data_url(first), "detail": "auto"}},
        {"type": "image_url", "image_url": data_url(second)},  # as some clients have it
        {"type": "text", "text": "then"},
    ]
    messages = [{"role": "developer", "content": "Be exact."}, {"role": "user", "content": parts}]
    assert http.post(PATH, json={"messages": messages}).status_code == 200
    assert fake.submitted[0].messages == [
        {"role": "system", "content": "Be exact."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "first"},
                {"type": "image", "image": first},
                {"type": "image", "image": second},
                {"type": "text", "text": "then"},
            ],
        },
    ]


def test_several_turns_are_kept(http: httpx.Client, fake: FakeModel) -> None:
    turns = [*page(), {"role": "assistant", "content": None}, {"role": "user", "content": "And the date?"}]
    assert http.post(PATH, json={"messages": turns}).status_code == 200
    assert [message["role"] for message in fake.submitted[0].messages] == ["user", "assistant", "user"]
    assert fake.submitted[0].messages[1]["content"] == ""


def test_an_answer_may_be_as_long_as_the_slot_unless_a_limit_is_given(http: httpx.Client, fake: FakeModel) -> None:
    for fields in ({}, {"max_tokens": 3}, {"max_completion_tokens": 2, "max_tokens": 8000}, {"max_tokens": 8000}):
        assert http.post(PATH, json=asked(**fields)).status_code == 200
    assert [handle.sampling.max_new_tokens for handle in fake.submitted] == [2048, 3, 2, 2048]


def test_a_limit_that_is_reached_is_told(http: httpx.Client) -> None:
    choice = http.post(PATH, json=asked(max_tokens=3)).json()["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("length", "Invoice")


def test_every_sampling_field_reaches_the_engine(http: httpx.Client, fake: FakeModel) -> None:
    fields: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "min_p": 0.1,
        "seed": 11,
        "presence_penalty": 1.0,
        "frequency_penalty": 0.05,
        "repetition_penalty": 1.1,
        "stop_token_ids": [3],
        "include_stop_str_in_output": True,
        "ignore_eos": True,
        "skip_special_tokens": False,
        "bad_words": ["bad"],
        "repetition_guard": False,
    }
    more = {"stop": "€", "min_tokens": 2, "vllm_xargs": {"no_repeat_ngram_size": 100, "debug": False}}
    answer = http.post(PATH, json=asked(**fields, **more, priority=-3))
    assert answer.status_code == 200
    settings = fake.submitted[0].sampling
    assert settings.stop == ("€",)
    assert (settings.min_new_tokens, settings.no_repeat_ngram_size) == (2, 100)
    assert fake.submitted[0].options["priority"] == -3
    assert fake.submitted[0].options["deadline_seconds"] == 600
    for name, value in fields.items():
        given = getattr(settings, name)
        assert (list(given) if isinstance(given, tuple) else given) == value
    assert answer.headers["X-Ignored-Fields"] == "vllm_xargs.debug"


def test_without_a_temperature_the_answer_is_greedy(http: httpx.Client, fake: FakeModel) -> None:
    for fields in ({}, {"temperature": None}, {"temperature": 1e-7}):
        http.post(PATH, json=asked(**fields))
    assert [handle.sampling.greedy for handle in fake.submitted] == [True] * 3


def test_a_schema_restricts_the_text_whatever_field_names_it(http: httpx.Client, fake: FakeModel) -> None:
    schema = {"type": "object", "properties": {"total": {"type": "number"}}}
    form = {"type": "json_schema", "json_schema": {"name": "invoice", "schema": schema, "strict": True}}
    for fields in (
        {"response_format": form},
        {"guided_json": schema},
        {"guided_json": json.dumps(schema)},
        {"structured_outputs": {"json": schema}},
    ):
        assert http.post(PATH, json=asked(**fields)).status_code == 200
    assert [json.loads(str(handle.sampling.json_schema)) for handle in fake.submitted] == [schema] * 4
    assert http.post(PATH, json=asked(response_format={"type": "json_object"})).status_code == 200
    assert fake.submitted[-1].sampling.json_schema == '{"type": "object"}'
    assert http.post(PATH, json=asked(response_format={"type": "text"}, guided_regex="[0-9]+")).status_code == 200
    assert fake.submitted[-1].sampling.regex == "[0-9]+"
    assert http.post(PATH, json=asked(response_format=form, guided_regex="a")).status_code == 400


def test_a_stop_string_ends_the_text_and_is_named(http: httpx.Client) -> None:
    choice = http.post(PATH, json=asked(stop=["€"])).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Invoice 4711, total 12.50 ", "stop")
    assert choice["stop_reason"] == "€"


def test_several_answers_have_seeds_of_their_own(http: httpx.Client, fake: FakeModel) -> None:
    body = http.post(PATH, json=asked(n=3, seed=5, temperature=1)).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert [handle.sampling.seed for handle in fake.submitted] == [5, 6, 7]
    assert body["usage"]["completion_tokens"] == 3 * len(fake.ids)
    assert body["usage"]["prompt_tokens"] == 20


def test_logprobs_have_the_bytes_of_every_token(http: httpx.Client) -> None:
    content = http.post(PATH, json=asked(logprobs=True, top_logprobs=2)).json()["choices"][0]["logprobs"]["content"]
    assert b"".join(bytes(token["bytes"]) for token in content).decode() == TEXT
    assert content[0]["logprob"] == -0.25
    assert content[0]["top_logprobs"][0]["token"] == content[0]["token"]
    assert len(content[0]["top_logprobs"]) == 2


def test_a_text_that_repeats_itself_is_too_long_unless_asked_otherwise(http: httpx.Client, fake: FakeModel) -> None:
    fake.reason = "repetition"
    assert http.post(PATH, json=asked()).json()["choices"][0]["finish_reason"] == "length"
    answer = http.post(PATH, json=asked(report_repetition=True))
    assert answer.json()["choices"][0]["finish_reason"] == "repetition"


# Streams


def events(text: str) -> list[Any]:
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in data]


def test_a_stream_has_a_role_then_texts_then_a_reason_then_the_usage(http: httpx.Client) -> None:
    answer = http.post(PATH, json=asked(stream=True, stream_options={"include_usage": True}))
    assert answer.headers["content-type"].startswith("text/event-stream")
    *chunks, last, done = events(answer.text)
    assert done == "[DONE]"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == TEXT
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert (last["choices"], last["usage"]["prompt_tokens"]) == ([], 20)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in [*chunks, last]}) == 1


def test_a_stream_without_usage_has_none(http: httpx.Client) -> None:
    chunks = events(http.post(PATH, json=asked(stream=True)).text)[:-1]
    assert all(chunk["choices"] and "usage" not in chunk for chunk in chunks)


def test_streamed_logprobs_are_those_of_the_whole(http: httpx.Client) -> None:
    fields = {"logprobs": True, "top_logprobs": 1, "n": 2}
    whole = http.post(PATH, json=asked(**fields)).json()["choices"][1]
    parts = [chunk["choices"][0] for chunk in events(http.post(PATH, json=asked(**fields, stream=True)).text)[:-1]]
    mine = [part for part in parts if part["index"] == 1]
    assert "".join(part["delta"].get("content", "") for part in mine) == TEXT
    assert [token for part in mine if part["logprobs"] for token in part["logprobs"]["content"]] == (
        whole["logprobs"]["content"]
    )


def test_a_stream_shows_text_before_the_end(server: Started, fake: FakeModel) -> None:
    fake.go.clear()
    with httpx.stream("POST", server.url + PATH, json=asked(stream=True), timeout=20) as answer:
        lines = answer.iter_lines()
        assert "assistant" in next(lines)
        fake.step()
        next(lines)
        assert '"content":"In"' in next(lines)
        assert not fake.submitted[0].done
        fake.go.set()
        assert "[DONE]" in "".join(lines)


def test_an_error_before_the_stream_has_its_status_and_one_within_it_is_an_event(
    http: httpx.Client, fake: FakeModel
) -> None:
    assert http.post(PATH, json=asked(stream=True, messages=page(content=b"x"))).status_code == 400
    fake.fail_at = 2
    answer = http.post(PATH, json=asked(stream=True))
    assert answer.status_code == 200
    *_, error, done = events(answer.text)
    assert done == "[DONE]"
    assert "overflowed" in error["error"]["message"]
