"""Clients of other people, none of them patched, against a server on loopback. They are in the group ``clients``."""

import asyncio
import base64
import io
import json
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.server.fake import TEXT, FakeModel
from tests.server.shapes import NAME, data_url, page, png
from tests.server.started import Started, started

KEY = "any key will do here"


class TestOpenAI:
    """openai-python."""

    @pytest.fixture(autouse=True)
    def _client(self, server: Started) -> None:
        self.openai = pytest.importorskip("openai")
        self.url = server.url + "/v1"
        self.client = self.openai.OpenAI(base_url=self.url, api_key=KEY, max_retries=0)

    def test_whole(self) -> None:
        answer = self.client.chat.completions.create(
            model=NAME, messages=page(), logprobs=True, top_logprobs=2, n=2, temperature=0, extra_body={"top_k": 1}
        )
        assert [choice.message.content for choice in answer.choices] == [TEXT, TEXT]
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage.prompt_tokens_details.cached_tokens == 5
        content = answer.choices[0].logprobs.content
        assert b"".join(bytes(token.bytes) for token in content).decode() == TEXT
        assert len(content[0].top_logprobs) == 2

    def test_streamed(self) -> None:
        chunks = list(
            self.client.chat.completions.create(
                model=NAME, messages=page(), stream=True, stream_options={"include_usage": True}
            )
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == TEXT
        assert chunks[-2].choices[0].finish_reason == "stop"
        assert chunks[-1].usage.completion_tokens > 0

    def test_streamed_by_its_helper(self) -> None:
        with self.client.chat.completions.stream(model=NAME, messages=page()) as stream:
            final = stream.get_final_completion()
        assert final.choices[0].message.content == TEXT

    def test_asynchronous(self) -> None:
        async def both() -> tuple[str, str]:
            async with self.openai.AsyncOpenAI(base_url=self.url, api_key=KEY, max_retries=0) as client:
                whole = await client.chat.completions.create(model=NAME, messages=page())
                stream = await client.chat.completions.create(model=NAME, messages=page(), stream=True)
                parts = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return whole.choices[0].message.content, "".join(parts)

        assert asyncio.run(both()) == (TEXT, TEXT)

    def test_many_at_once(self) -> None:
        async def many() -> list[str]:
            async with self.openai.AsyncOpenAI(base_url=self.url, api_key=KEY, max_retries=5) as client:
                asked = [client.chat.completions.create(model=NAME, messages=page(str(n))) for n in range(40)]
                return [answer.choices[0].message.content for answer in await asyncio.gather(*asked)]

        assert asyncio.run(many()) == [TEXT] * 40  # 12 are let in at a time, the others come again

    def test_models(self) -> None:
        assert [model.id for model in self.client.models.list()] == [NAME]
        assert self.client.models.retrieve(NAME).id == NAME

    def test_errors_have_their_classes(self, fake: FakeModel) -> None:
        ask = self.client.chat.completions.create
        with pytest.raises(self.openai.NotFoundError):
            ask(model="gpt-4o", messages=page())
        with pytest.raises(self.openai.BadRequestError, match="tools is not supported") as caught:
            ask(model=NAME, messages=page(), tools=[{"type": "function", "function": {"name": "f"}}])
        assert (caught.value.param, caught.value.code) == ("tools", "unsupported_field")
        fake.scheduler.config.max_waiting = 0
        with pytest.raises(self.openai.RateLimitError):
            ask(model=NAME, messages=page())

    def test_an_error_within_a_stream_is_raised(self, fake: FakeModel) -> None:
        fake.fail_at = 2
        with pytest.raises(self.openai.APIError, match="overflowed"):
            list(self.client.chat.completions.create(model=NAME, messages=page(), stream=True))

    def test_parsed_answers(self) -> None:
        from pydantic import BaseModel

        class Total(BaseModel):
            total: float

        with started(FakeModel(text='{"total": 12.5}')) as server:
            client = self.openai.OpenAI(base_url=server.url + "/v1", api_key=KEY)
            answer = client.chat.completions.parse(model=NAME, messages=page(), response_format=Total)
            assert answer.choices[0].message.parsed == Total(total=12.5)
            assert json.loads(server.model.submitted[0].sampling.json_schema)["properties"]["total"]


def two_steps() -> FakeModel:
    """A model that finds a title and a text on every page."""
    layout = (
        "<|box_start|>100 100 900 200<|box_end|><|ref_start|>title<|ref_end|><|rotate_up|>\n"
        "<|box_start|>100 300 900 800<|box_end|><|ref_start|>text<|ref_end|><|rotate_up|>"
    )
    model = FakeModel()
    texts = {"\nLayout Detection:": layout, "\nText Recognition:": "Total 12.50"}
    real = model.submit

    def submit(messages: Any, **options: Any) -> Any:
        prompt = messages[-1]["content"][-1]["text"]
        model.ids = model.tokenizer.encode(texts[prompt]).ids
        handle = real(messages, **options)
        while not handle.done:
            handle.step()
        handle.tell()
        return handle

    model.submit = submit  # type: ignore[method-assign]
    return model


class TestMinerU:
    """mineru-vl-utils, MinerUClient(backend="http-client")."""

    @pytest.fixture(autouse=True)
    def _utils(self) -> None:
        self.utils = pytest.importorskip("mineru_vl_utils")

    def test_a_page_is_laid_out_and_its_blocks_are_read(self) -> None:
        model = two_steps()
        with started(model, workers=1) as server:
            client = self.utils.MinerUClient(backend="http-client", server_url=server.url)
            blocks = client.two_step_extract(Image.new("RGB", (800, 1000), "white"))
        assert [block["type"] for block in blocks] == ["title", "text"]
        assert {block["content"] for block in blocks} == {"Total 12.50"}
        first = model.submitted[0]
        assert first.messages[0] == {"role": "system", "content": "You are a helpful assistant."}
        assert (first.sampling.temperature, first.sampling.top_k, first.sampling.skip_special_tokens) == (0, 1, False)
        assert {handle.sampling.no_repeat_ngram_size for handle in model.submitted} == {100}
        assert (model.submitted[1].sampling.presence_penalty, model.submitted[1].sampling.frequency_penalty) == (1.0, 0.05)

    def test_asynchronous_and_busy_servers_are_asked_again(self) -> None:
        model = FakeModel(slots=1, max_waiting=0)
        with started(model) as server:
            client = self.utils.MinerUClient(backend="http-client", server_url=server.url)
            image = Image.new("RGB", (80, 80), "white")

            async def read() -> list[str]:
                return list(
                    await asyncio.gather(*[client.client.aio_predict(image, "\nText Recognition:") for _ in range(3)])
                )

            model.scheduler.config.max_waiting = 8
            assert asyncio.run(read()) == [TEXT] * 3


def test_mineru_reads_a_page_by_its_own_command(tmp_path: Path) -> None:
    """``mineru -b vlm-http-client`` of MinerU 2, which needs an environment of its own: uv tool install 'mineru>=2.7,<3'.
    MinerU 4 fetches models for its detector from a hub even where a server reads the page."""
    command = shutil.which("mineru")
    if command is None:
        pytest.skip("no mineru on PATH: uv tool install 'mineru>=2.7,<3'")
    source = tmp_path / "page.png"
    source.write_bytes(png(800, 1000))
    with started(two_steps(), workers=1) as server:
        options = ["-p", str(source), "-o", str(tmp_path / "out"), "-b", "vlm-http-client", "-u", server.url]
        subprocess.run([command, *options], check=True, timeout=120)
    (markdown,) = (tmp_path / "out").rglob("page.md")
    assert markdown.read_text().split() == ["#", "Total", "12.50", "Total", "12.50"]


class TestLangChain:
    """langchain-openai."""

    @pytest.fixture(autouse=True)
    def _chat(self, server: Started) -> None:
        module = pytest.importorskip("langchain_openai")
        self.chat = module.ChatOpenAI(base_url=server.url + "/v1", api_key=KEY, model=NAME, temperature=0, max_retries=0)

    def messages(self) -> list[Any]:
        from langchain_core.messages import HumanMessage, SystemMessage

        image = {"type": "image", "base64": base64.b64encode(png()).decode(), "mime_type": "image/png"}
        return [SystemMessage("Read."), HumanMessage([{"type": "text", "text": "All of it."}, image])]

    def test_whole(self) -> None:
        answer = self.chat.invoke(self.messages())
        assert answer.content == TEXT
        assert answer.usage_metadata["input_tokens"] == 20
        assert answer.response_metadata["finish_reason"] == "stop"

    def test_streamed(self) -> None:
        assert "".join(chunk.text for chunk in self.chat.stream(self.messages())) == TEXT

    def test_with_logprobs(self) -> None:
        answer = self.chat.bind(logprobs=True, top_logprobs=1).invoke(self.messages())
        content = answer.response_metadata["logprobs"]["content"]
        assert b"".join(bytes(token["bytes"]) for token in content).decode() == TEXT


class TestShapes:
    """What clients that are no libraries send."""

    def test_olmocr(self, server: Started, fake: FakeModel) -> None:
        """Text before the image, no system message, 8,000 tokens, a temperature that climbs with every retry."""
        file = io.BytesIO()
        Image.new("RGB", (990, 1288), "white").save(file, "PNG")
        parts = [
            {"type": "text", "text": "Below is the image of one page of a document."},
            {"type": "image_url", "image_url": {"url": data_url(file.getvalue())}},
        ]
        body = {
            "model": NAME,
            "messages": [{"role": "user", "content": parts}],
            "max_tokens": 8000,
            "temperature": 0.1,
        }
        request = urllib.request.Request(
            server.url + "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert int(answer.headers["Content-Length"]) > 0  # its client needs it, or chunks
            read = json.load(answer)
        assert read["choices"][0]["finish_reason"] == "stop"
        assert read["usage"]["total_tokens"] > 0
        assert [part["type"] for part in fake.submitted[0].messages[0]["content"]] == ["text", "image"]
        assert fake.submitted[0].sampling.temperature == 0.1

    def test_open_webui(self, http: httpx.Client) -> None:
        """Streams, with fields of its own; asks for the list of models first."""
        assert http.get("/v1/models", headers={"Authorization": "Bearer"}).status_code == 200
        body = {
            "stream": True,
            "model": NAME,
            "messages": [{"role": "system", "content": "Answer in English."}, *page()],
            "stream_options": {"include_usage": True},
            "chat_id": "4c0e", "session_id": "x", "features": {"web_search": False},
            "max_tokens": 128, "function_calling": None,
        }  # fmt: skip
        answer = http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200
        assert answer.text.rstrip().endswith("data: [DONE]")
        assert answer.headers["X-Ignored-Fields"] == "chat_id, session_id, features"

    def test_marker(self, http: httpx.Client, fake: FakeModel) -> None:
        """WebP, and a schema of the answer."""
        file = io.BytesIO()
        Image.new("RGB", (60, 40), "white").save(file, "WEBP")
        schema = {"type": "object", "properties": {"html": {"type": "string"}}, "required": ["html"]}
        parts = [
            {"type": "image_url", "image_url": {"url": data_url(file.getvalue(), "image/webp")}},
            {"type": "text", "text": "As HTML."},
        ]
        body = {
            "model": NAME,
            "messages": [{"role": "user", "content": parts}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "block", "schema": schema}},
        }
        assert http.post("/v1/chat/completions", json=body).status_code == 200
        assert json.loads(fake.submitted[0].sampling.json_schema or "") == schema
