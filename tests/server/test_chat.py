"""``POST /v1/chat/completions`` as a client sees it; the model is a fake, so nothing is read."""

import json
import socket
import threading
import time
from typing import Any

import httpx
import pytest

from mindnlp_ocr.errors import PageError
from tests.server.fake import TEXT, FakeModel
from tests.server.shapes import NAME, asked, data_url, page, png
from tests.server.started import Started, started, until

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


# What is passed over and what is refused


def test_unknown_fields_pass_and_are_named(http: httpx.Client) -> None:
    answer = http.post(PATH, json=asked(brand_new=1, another={"a": 2}, user="me", store=False, tools=[], logit_bias=None))
    assert answer.status_code == 200
    assert answer.headers["X-Ignored-Fields"] == "brand_new, another"
    odd = http.post(PATH, json=asked(**{"fi\r\neld": 1, "字段": 2}))
    assert odd.headers["X-Ignored-Fields"] == "fi??eld, \\u5b57\\u6bb5"


@pytest.mark.parametrize(
    "field",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tool_choice": "required"},
        {"audio": {"voice": "x", "format": "mp3"}},
        {"modalities": ["text", "audio"]},
        {"logit_bias": {"5": 10}},
        {"prompt_logprobs": 3},
        {"best_of": 2},
        {"use_beam_search": True},
        {"echo": True},
        {"mm_processor_kwargs": {"max_pixels": 1000}},
        {"chat_template_kwargs": {"add_vision_id": True}},
        {"structured_outputs": {"choice": ["a"]}},
    ],
    ids=lambda field: next(iter(field)),
)
def test_a_known_field_that_would_change_the_answer_is_refused(
    field: dict[str, Any], http: httpx.Client, fake: FakeModel
) -> None:
    answer = http.post(PATH, json=asked(**field))
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["code"] == "unsupported_field"
    assert error["param"] == next(iter(field))
    assert next(iter(field)) in error["message"]
    assert not fake.submitted


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]}],
        [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "data:video/mp4;base64,"}}]}],
        [{"role": "user", "content": [{"type": "file", "file": {"file_id": "x"}}]}],
        [{"role": "user", "content": [{"type": "image", "image": "/etc/passwd"}]}],
        [{"role": "user", "content": [{"type": "text"}]}],
        [{"role": "user", "content": None}],
        [{"role": "tool", "content": "a", "tool_call_id": "1"}],
        [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}],
        [{"role": "narrator", "content": "a"}],
        [],
    ],
)
def test_messages_that_cannot_be_read_are_refused(messages: Any, http: httpx.Client, fake: FakeModel) -> None:
    answer = http.post(PATH, json={"messages": messages})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages"
    assert not fake.submitted


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": -1}, None),
        ({"temperature": "warm"}, "temperature"),
        ({"top_p": 2}, None),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": 2}, None),
        ({"stop": [""]}, None),
        ({"messages": "read"}, "messages"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"vllm_xargs": {"no_repeat_ngram_size": "x"}}, None),
    ],
    ids=str,
)
def test_a_value_out_of_range_is_refused(fields: Any, param: Any, http: httpx.Client, fake: FakeModel) -> None:
    answer = http.post(PATH, json=asked(**fields))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert not fake.submitted


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"messages": [{"role": "user", "content": "\xff"}]}'])
def test_a_body_that_is_no_json_object_is_refused(body: bytes, http: httpx.Client) -> None:
    answer = http.post(PATH, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_another_model_is_not_found(http: httpx.Client) -> None:
    answer = http.post(PATH, json=asked(model="gpt-4o"))
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


# Images


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/page.png",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "/etc/passwd",
        "examples/invoice.png",
        "data:image/png,abc",
        "data:image/png;base64,###",
        "data:application/pdf;base64,JVBERi0=",
        "data:image/png;base64",
        "",
    ],
)
def test_nothing_but_data_urls_of_images_is_opened(url: str, http: httpx.Client, fake: FakeModel) -> None:
    part = {"type": "image_url", "image_url": {"url": url}}
    answer = http.post(PATH, json={"messages": [{"role": "user", "content": [part]}]})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages"
    assert not fake.submitted


def test_an_image_that_is_none_is_refused(http: httpx.Client, fake: FakeModel) -> None:
    answer = http.post(PATH, json={"messages": page(content=b"no image at all")})
    assert answer.status_code == 400
    assert "no image" in answer.json()["error"]["message"] or "not an image" in answer.json()["error"]["message"]
    assert not fake.submitted


def test_an_image_of_many_pixels_is_refused_without_being_decoded(fake: FakeModel) -> None:
    with started(fake, max_image_pixels=1000) as server:
        assert httpx.post(server.url + PATH, json={"messages": page(content=png(20, 50))}).status_code == 200
        answer = httpx.post(server.url + PATH, json={"messages": page(content=png(20, 51))})
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "image_too_large"
    assert len(fake.submitted) == 1


def test_too_many_images_are_refused(fake: FakeModel) -> None:
    parts = [{"type": "image_url", "image_url": {"url": data_url(png())}}] * 3
    with started(fake, max_images=2) as server:
        answer = httpx.post(server.url + PATH, json={"messages": [{"role": "user", "content": parts}]})
    assert answer.status_code == 400
    assert "3 images" in answer.json()["error"]["message"]


# Load


def test_who_comes_when_the_queue_is_full_is_told_when_to_come_again(fake: FakeModel) -> None:
    fake.go.clear()
    with started(fake, max_waiting=2) as server:  # beside 4 slots
        threads = [
            threading.Thread(target=httpx.post, args=(server.url + PATH,), kwargs={"json": asked()}) for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        until(lambda: len(fake.submitted) == 6)
        answer = httpx.post(server.url + PATH, json=asked())
        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.json()["error"]["type"] == "rate_limit_error"
        fake.go.set()
        for thread in threads:
            thread.join()
        assert httpx.post(server.url + PATH, json=asked()).status_code == 200


def test_requests_whose_images_are_being_decoded_count_as_well(fake: FakeModel) -> None:
    fake.decoding.clear()
    with started(fake, max_waiting=0, workers=1) as server:
        threads = [
            threading.Thread(target=httpx.post, args=(server.url + PATH,), kwargs={"json": asked()}) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        until(lambda: server.server.admission.count == 4)
        assert httpx.post(server.url + PATH, json=asked()).status_code == 429
        assert httpx.get(server.url + "/health").status_code == 200  # the event loop is free meanwhile
        fake.decoding.set()
        for thread in threads:
            thread.join()
    assert len(fake.submitted) == 4


def test_the_engines_own_bound_is_told_before_an_image_is_decoded(server: Started, fake: FakeModel) -> None:
    fake.scheduler.config.max_waiting = 0
    answer = httpx.post(server.url + PATH, json={"messages": page(content=b"not looked at")})
    assert answer.status_code == 429
    assert answer.headers["Retry-After"] == "1"


def test_a_client_that_hangs_up_frees_its_slot(server: Started, fake: FakeModel) -> None:
    fake.go.clear()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(server.url + PATH, json=asked(), timeout=0.3)
    until(lambda: fake.cancelled)
    until(lambda: server.server.admission.count == 0)
    fake.go.set()
    assert httpx.post(server.url + PATH, json=asked()).status_code == 200


def test_a_client_that_hangs_up_while_its_image_is_decoded_is_not_queued(server: Started, fake: FakeModel) -> None:
    fake.decoding.clear()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(server.url + PATH, json=asked(n=2), timeout=0.3)
    time.sleep(0.1)
    fake.decoding.set()
    until(lambda: server.server.admission.count == 0)
    assert all(handle.done for handle in fake.submitted)
    assert len(fake.submitted) < 2


def test_a_page_that_fails_in_the_engine_is_an_error(http: httpx.Client, fake: FakeModel) -> None:
    fake.fail_at = 2
    answer = http.post(PATH, json=asked())
    assert answer.status_code == 400
    assert "overflowed" in answer.json()["error"]["message"]


def test_what_nobody_foresaw_is_a_500_without_its_details(
    http: httpx.Client, fake: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(fake, "submit", broken)
    answer = http.post(PATH, json=asked(), headers={"X-Request-Id": "abc-1"})
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "abc-1" in answer.text
    assert "secret" not in answer.text


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
        fake._step()
        next(lines)
        assert '"content":"In"' in next(lines)
        assert not fake.submitted[0].done
        fake.go.set()
        assert "[DONE]" in "".join(lines)


def test_a_stream_that_is_left_frees_its_slot(server: Started, fake: FakeModel) -> None:
    fake.go.clear()
    with httpx.stream("POST", server.url + PATH, json=asked(stream=True, n=2), timeout=20) as answer:
        next(answer.iter_lines())
    until(lambda: len(fake.cancelled) == 2)
    until(lambda: server.server.admission.count == 0)


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


def test_half_a_request_and_a_hangup_leave_nothing_behind(server: Started, fake: FakeModel) -> None:
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n"
        )
        connection.sendall(head.encode() + b'{"messages": [')
    assert httpx.post(server.url + PATH, json=asked()).status_code == 200
    assert server.server.admission.count == 0
    assert len(fake.submitted) == 1


def test_page_errors_of_the_engine_are_errors_of_the_api() -> None:
    """The form of all errors, without a server."""
    from mindnlp_ocr.server.errors import ApiError, body, of_engine

    error = of_engine(PageError("too long: shorten it"))
    assert isinstance(error, ApiError)
    assert body(error) == {
        "error": {"message": "too long: shorten it", "type": "invalid_request_error", "param": None, "code": None}
    }
