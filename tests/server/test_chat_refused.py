"""What ``POST /v1/chat/completions`` passes over and what it refuses: fields, values, messages and images."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.server.fake import FakeModel
from tests.server.shapes import asked, data_url, page, png
from tests.server.started import Started, started

PATH = "/v1/chat/completions"


@pytest.fixture(scope="module")
def running() -> Iterator[Started]:
    """One server for all tests, since hardly a request reaches its model."""
    with started(FakeModel()) as server:
        yield server


@pytest.fixture
def fake(running: Started) -> FakeModel:
    model: FakeModel = running.model
    model.submitted.clear()
    return model


@pytest.fixture
def http(running: Started) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=20) as client:
        yield client


# Fields and values


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


def test_an_image_of_many_pixels_is_refused_without_being_decoded() -> None:
    fake = FakeModel()
    with started(fake, max_image_pixels=1000) as server:
        assert httpx.post(server.url + PATH, json={"messages": page(content=png(20, 50))}).status_code == 200
        answer = httpx.post(server.url + PATH, json={"messages": page(content=png(20, 51))})
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "image_too_large"
    assert len(fake.submitted) == 1


def test_too_many_images_are_refused() -> None:
    fake = FakeModel()
    parts = [{"type": "image_url", "image_url": {"url": data_url(png())}}] * 3
    with started(fake, max_images=2) as server:
        answer = httpx.post(server.url + PATH, json={"messages": [{"role": "user", "content": parts}]})
    assert answer.status_code == 400
    assert "3 images" in answer.json()["error"]["message"]
