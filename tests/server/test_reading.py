"""The server and the engine together, with the built-in checkpoint."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
from tests.conftest import ROOT
from tests.server.shapes import NAME, page
from tests.server.started import Started, started, until

PATH = "/v1/chat/completions"
WORD = ROOT / "tests" / "pages" / "word_56x56.png"
QUESTION = "Extract all text from this image."


@pytest.fixture(scope="module")
def server(model: Qwen2VLModel) -> Iterator[Started]:
    with started(model, max_waiting=32) as running:
        yield running


def asked(path: Path = WORD, **fields: Any) -> dict[str, Any]:
    return {"messages": page(QUESTION, path.read_bytes()), **fields}


def read(model: Qwen2VLModel, path: Path, **settings: Any) -> Any:
    content = [{"type": "image", "image": path.read_bytes()}, {"type": "text", "text": QUESTION}]
    return model.generate([{"role": "user", "content": content}], **settings)


def idle(model: Qwen2VLModel) -> bool:
    stats = model.scheduler.stats()
    return not stats["running"] and not stats["waiting"] and model.get_cache_stats()["slots"]["live"] == 0


def test_the_text_is_that_of_the_python_interface(server: Started, model: Qwen2VLModel) -> None:
    expected = read(model, WORD)
    body = httpx.post(server.url + PATH, json=asked(logprobs=True), timeout=60).json()
    assert expected.text
    assert body["choices"][0]["message"]["content"] == expected.text
    assert body["choices"][0]["finish_reason"] == expected.finish_reason
    assert [token["logprob"] for token in body["choices"][0]["logprobs"]["content"]] == expected.logprobs
    assert body["usage"]["prompt_tokens"] == expected.prompt_tokens
    assert body["usage"]["completion_tokens"] == len(expected.token_ids)


def test_a_stream_gives_the_same_text(server: Started, model: Qwen2VLModel) -> None:
    answer = httpx.post(server.url + PATH, json=asked(stream=True), timeout=60)
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    deltas = [json.loads(line)["choices"][0]["delta"].get("content", "") for line in lines]
    assert "".join(deltas) == read(model, WORD).text


def test_clients_at_the_same_time_get_what_each_gets_alone(server: Started, model: Qwen2VLModel) -> None:
    pages = [WORD, ROOT / "tests" / "pages" / "small_48x30.png", ROOT / "examples" / "invoice.png"]
    expected = {path: read(model, path, max_new_tokens=24).text for path in pages}

    async def all_of_them() -> list[str]:
        async with httpx.AsyncClient(timeout=120) as client:
            sent = [client.post(server.url + PATH, json=asked(path, max_tokens=24)) for path in pages * 3]
            return [answer.json()["choices"][0]["message"]["content"] for answer in await asyncio.gather(*sent)]

    assert asyncio.run(all_of_them()) == [expected[path] for path in pages * 3]


def test_sampling_with_a_seed_is_repeated(server: Started) -> None:
    fields = {"temperature": 1.5, "seed": 4, "n": 2, "max_tokens": 8, "top_k": 50, "logprobs": True, "top_logprobs": 3}
    first, second = (httpx.post(server.url + PATH, json=asked(**fields), timeout=60).json()["choices"] for _ in range(2))
    assert first == second
    assert all(len(token["top_logprobs"]) == 3 for token in first[0]["logprobs"]["content"])


def test_a_schema_is_kept(server: Started) -> None:
    schema = {
        "type": "object",
        "properties": {"word": {"type": "string", "maxLength": 20}},
        "required": ["word"],
        "additionalProperties": False,  # otherwise the model may add properties until its answer is full
    }
    form = {"type": "json_schema", "json_schema": {"name": "word", "schema": schema}}
    body = httpx.post(server.url + PATH, json=asked(response_format=form, max_tokens=90), timeout=60).json()
    assert isinstance(json.loads(body["choices"][0]["message"]["content"])["word"], str)


def test_a_client_that_hangs_up_frees_its_slot(server: Started, model: Qwen2VLModel) -> None:
    invoice = ROOT / "examples" / "invoice.png"
    body = asked(invoice, stream=True, ignore_eos=True, repetition_guard=False)
    with httpx.stream("POST", server.url + PATH, json=body, timeout=60) as answer:
        lines = answer.iter_lines()
        while "finish_reason" not in (line := next(lines)) or '"content":""' in line:
            pass
        assert model.scheduler.stats()["running"] == 1
    until(lambda: idle(model))


def test_a_prompt_that_does_not_fit_is_the_clients_fault(server: Started) -> None:
    body = {"messages": [{"role": "user", "content": "word " * 20000}]}
    answer = httpx.post(server.url + PATH, json=body, timeout=60)
    assert answer.status_code == 400
    assert "a slot holds" in answer.json()["error"]["message"]


def test_a_deadline_is_a_timeout(model: Qwen2VLModel) -> None:
    with started(model, request_seconds=0.05) as server:
        body = asked(ROOT / "examples" / "invoice.png", ignore_eos=True, repetition_guard=False)
        answer = httpx.post(server.url + PATH, json=body, timeout=60)
    assert answer.status_code == 504
    assert answer.json()["error"]["type"] == "timeout_error"
    assert idle(model)


def test_who_is_there_is_answered_when_the_server_is_stopped(model: Qwen2VLModel) -> None:
    answers: list[httpx.Response] = []
    with started(model) as server:
        body = asked(ROOT / "examples" / "invoice.png", max_tokens=60)
        thread = threading.Thread(target=lambda: answers.append(httpx.post(server.url + PATH, json=body, timeout=60)))
        thread.start()
        until(lambda: server.server.admission.count)
    thread.join()
    assert answers[0].status_code == 200
    assert idle(model)


def test_mineru_reads_a_line(server: Started, model: Qwen2VLModel) -> None:
    utils = pytest.importorskip("mineru_vl_utils")
    client = utils.MinerUClient(backend="http-client", server_url=server.url)
    with Image.open(WORD) as image:
        text = client.client.predict(image.convert("RGB"), "\nText Recognition:")
    assert text.strip()
    assert "<|im_end|>" not in text


def test_openai_reads_a_page(server: Started, model: Qwen2VLModel) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="any", max_retries=0)
    invoice = ROOT / "examples" / "invoice.png"
    chunks = client.chat.completions.create(model=NAME, messages=page(QUESTION, invoice.read_bytes()), stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text + "\n" == invoice.with_suffix(".txt").read_text(encoding="utf-8")
