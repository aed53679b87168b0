"""Whatever is sent, the server answers in its own words and goes on: never a 500. More cases: MINDNLP_OCR_FUZZ=5000."""

import json
import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mindnlp_ocr.server.asked import REFUSED
from mindnlp_ocr.server.protocol import ChatRequest
from tests.server.fake import FakeModel
from tests.server.shapes import data_url, png
from tests.server.started import Started, started

CASES = int(os.environ.get("MINDNLP_OCR_FUZZ", "150"))
CHAT = "/v1/chat/completions"
MANY = settings(
    max_examples=CASES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
urls = (
    st.sampled_from([data_url(png()), "data:image/png;base64,aaaa", "data:,", "http://a/b", "file:///etc/passwd"])
    | st.text()
)
parts = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=30)}),
    st.fixed_dictionaries({"type": st.just("image_url"), "image_url": urls | st.fixed_dictionaries({"url": urls})}),
    anything,
)
messages = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["system", "user", "assistant", "developer", "tool"]),
            "content": st.text(max_size=30) | st.lists(parts, max_size=3),
        }
    ),
    max_size=3,
)
sensible: dict[str, st.SearchStrategy[Any]] = {
    "n": st.integers(-1, 20),
    "max_tokens": st.integers(-1, 5),
    "temperature": st.floats(-1, 3),
    "top_p": st.floats(-0.5, 1.5),
    "seed": st.integers(-1, 2**65),
    "stop": st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=3),
    "logprobs": st.booleans(),
    "top_logprobs": st.integers(-1, 22),
    "stream": st.booleans(),
    "vllm_xargs": st.dictionaries(st.sampled_from(["no_repeat_ngram_size", "debug"]), anything, max_size=2),
}
names = sorted({*ChatRequest.model_fields, *REFUSED, "model", "unknown"} - {"messages"})
fields = st.dictionaries(st.sampled_from(names), anything, max_size=4) | st.fixed_dictionaries({}, optional=sensible)


@pytest.fixture(scope="module")
def server() -> Iterator[Started]:
    with started(FakeModel(text="Yes")) as running:
        yield running


@pytest.fixture(scope="module")
def http(server: Started) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


def check(answer: httpx.Response) -> None:
    """It is an answer, or an error in the form that clients read."""
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert error["message"]
        assert set(error) == {"message", "type", "param", "code"}


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


@MANY
@given(messages=messages, fields=fields)
def test_chat_requests(messages: Any, fields: Any, http: httpx.Client) -> None:
    content = dumped({"messages": messages, **fields})
    check(http.post(CHAT, content=content, headers={"Content-Type": "application/json"}))


@MANY
@given(body=anything.map(dumped) | st.binary(max_size=200), path=st.sampled_from([CHAT, "/tokenize", "/detokenize"]))
def test_bodies(body: bytes, path: str, http: httpx.Client) -> None:
    check(http.post(path, content=body, headers={"Content-Type": "application/json"}))


@MANY
@given(
    fields=st.dictionaries(
        st.sampled_from(
            ["document", "name", "pages", "layout", "dpi", "password", "text_layer", "stream", "format", "preset", "x"]
        ),
        anything,
    )
)
def test_documents_as_json(fields: Any, http: httpx.Client) -> None:
    check(http.post("/v1/documents", content=dumped(fields), headers={"Content-Type": "application/json"}))


@MANY
@given(
    path=st.text(max_size=30),
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"]),
    under=st.sampled_from(["/", "/v1/", "/v1/models/", "/v1/documents/", "/web/"]),
)
def test_paths(path: str, method: str, under: str, http: httpx.Client) -> None:
    from urllib.parse import quote

    answer = http.request(method, under + quote(path, safe=""), headers={"Content-Type": "application/json"})
    assert answer.status_code < 500
    assert method == "HEAD" or answer.status_code < 400 or answer.json()["error"]["message"]


@MANY
@given(body=st.binary(max_size=300), boundary=st.text("ab-", max_size=6))
def test_forms(body: bytes, boundary: str, http: httpx.Client) -> None:
    check(http.post("/v1/documents", content=body, headers={"Content-Type": f"multipart/form-data; boundary={boundary}"}))


def test_it_still_answers(http: httpx.Client, server: Started) -> None:
    """The last of this file: nothing that was sent is left behind."""
    assert http.post(CHAT, json={"messages": [{"role": "user", "content": "?"}]}).status_code == 200
    assert server.server.admission.count == 0
    assert http.get("/health").status_code == 200
