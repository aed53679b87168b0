"""Handler of ``POST /v1/chat/completions``."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from mindnlp_ocr import __version__
from mindnlp_ocr.errors import PageError
from mindnlp_ocr.sampling.params import MOST_SEED, SamplingParams
from mindnlp_ocr.server import asked as reading
from mindnlp_ocr.server import images, protocol
from mindnlp_ocr.server.config import ServerConfig
from mindnlp_ocr.server.errors import ApiError, body, of_engine
from mindnlp_ocr.server.logs import event
from mindnlp_ocr.server.metrics import Metrics
from mindnlp_ocr.server.protocol import ChatRequest
from mindnlp_ocr.server.running import Admission, Running, Watched
from mindnlp_ocr.server.sse import KEEP_ALIVE, KEEP_ALIVE_SECONDS, EventStream, event_json, event_text
from mindnlp_ocr.server.tokens import Tokens

FINGERPRINT = f"mindnlp-ocr-{__version__}"
IGNORED_HEADER = "X-Ignored-Fields"
SMALL_BODY = 1 << 16  # bytes; bodies up to this size are parsed in the event loop
Kind = TypeVar("Kind", bound=BaseModel)


class Chat:
    """Answers chat requests.

    Args:
        model: a Qwen2VLModel within its ``serving()`` context.
        pool: threads that decode images.
        name: name of the model in the API.
        longest: number of tokens of a KV slot.
    """

    def __init__(
        self,
        model: Any,
        config: ServerConfig,
        pool: ThreadPoolExecutor,
        tokens: Tokens,
        metrics: Metrics,
        admission: Admission,
        name: str,
        longest: int,
        fetch: Callable[[str], bytes] | None = None,
    ) -> None:
        self._model, self._config, self._pool, self._tokens = model, config, pool, tokens
        self._metrics, self._admission, self._name, self._longest, self._fetch = metrics, admission, name, longest, fetch

    async def complete(self, http: Request) -> Response:
        """Answer a request with JSON or a stream of events."""
        try:
            self._admission.check()  # before the body is read and an image decoded
            self._model.check_room()
        except PageError as error:
            await drain(http)
            raise of_engine(error) from error
        except ApiError:
            await drain(http)
            raise
        asked = await parsed(http, ChatRequest, self._pool)
        self.check_model(asked.model)
        skipped = reading.ignored(asked)
        count = asked.n or 1
        if count > self._config.max_choices:
            raise ApiError(
                f"n is {count}, but this server gives at most {self._config.max_choices} answers: request fewer, "
                "or start it with a higher --max-choices",
                param="n",
                code="too_many_choices",
            )
        async with AsyncExitStack() as stack:
            running = await stack.enter_async_context(Running(http.receive, self._admission, count, self._metrics))
            settings = self._settings(asked)
            await asyncio.get_running_loop().run_in_executor(self._pool, self._submit, running, asked, settings, count)
            if running.gone:
                return Response(status_code=499)
            if skipped:
                event("ignored fields", fields=",".join(skipped))
            name = f"chatcmpl-{asked.request_id or uuid.uuid4().hex}"
            headers = {IGNORED_HEADER: _header(skipped)} if skipped else {}
            if asked.stream:
                streamed = _Streamed(self, running, asked, name)
                return EventStream(streamed.events(), stack.pop_all().aclose, headers)
            await running.finish()
            if running.gone:
                return Response(status_code=499)
            whole = self._whole(running, asked, name)
            return Response(whole.model_dump_json(), media_type="application/json", headers=headers)

    def check_model(self, name: str | None) -> None:
        """Check the name of the model in a request.

        Raises:
            ApiError: it is not the name of this server's model (404).
        """
        if name and name != self._name:
            raise ApiError(
                f"the model {name[:80]!r} does not exist: this server has {self._name!r}",
                404,
                "model",
                code="model_not_found",
            )

    def _settings(self, asked: ChatRequest) -> SamplingParams:
        try:
            reading.check_parts(asked)
            return reading.sampling(asked, self._longest)
        except PageError as error:
            raise of_engine(error) from error

    def _submit(self, running: Running, asked: ChatRequest, settings: SamplingParams, count: int) -> None:
        """Decode the images and submit every choice. Runs in a thread of the pool."""
        if running.gone:
            return
        try:
            contents = images.read(reading.sources(asked), self._config, self._fetch)
            messages = reading.messages(asked, contents)
            for number in range(count):
                seeded = settings
                if settings.seed is not None and number:
                    seeded = replace(settings, seed=(settings.seed + number) % (MOST_SEED + 1))

                def start(on_change: Callable[[Any], None], seeded: SamplingParams = seeded) -> Any:
                    return self._model.submit(
                        messages,
                        sampling=seeded,
                        priority=asked.priority or 0,
                        deadline_seconds=self._config.request_seconds,
                        on_change=on_change,
                    )

                running.submit(start)
        except PageError as error:
            raise of_engine(error) from error

    def _whole(self, running: Running, asked: ChatRequest, name: str) -> protocol.ChatCompletion:
        choices, readings = [], []
        for number, choice in enumerate(running.watched):
            result = self.result(choice)
            readings.append(result)
            choices.append(
                protocol.Choice(
                    index=number,
                    message=protocol.AnswerMessage(content=result.text),
                    logprobs=self.logprobs(choice.handle, 0, len(result.token_ids)) if asked.logprobs else None,
                    finish_reason=finish_reason(result, asked),
                    stop_reason=result.stop_reason,
                )
            )
        return protocol.ChatCompletion(
            id=name,
            model=self._name,
            choices=choices,
            usage=usage(readings),
            system_fingerprint=FINGERPRINT,
        )

    @staticmethod
    def result(choice: Watched) -> Any:
        """Return the result of a choice.

        Raises:
            ApiError: the choice failed.
        """
        try:
            return choice.handle.result(0)
        except PageError as error:
            raise of_engine(error) from error

    def logprobs(self, handle: Any, start: int, end: int) -> protocol.ChoiceLogprobs:
        """Return the log-probabilities of the tokens with indices from ``start`` up to ``end``, exclusive."""
        content = []
        for number in range(start, end):
            pairs = handle.top_logprobs[number] if number < len(handle.top_logprobs) else []
            own = self._token(handle.token_ids[number], handle.logprobs[number])
            top = [self._token(token_id, value) for token_id, value in pairs]
            content.append(protocol.TokenLogprob(**own, top_logprobs=[protocol.TopLogprob(**one) for one in top]))
        return protocol.ChoiceLogprobs(content=content)

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        return {
            "token": self._tokens.text_of(token_id),
            "logprob": reading.finite(float(logprob)),
            "bytes": list(self._tokens.bytes_of(token_id)),
        }

    def chunk(self, name: str, created: int, choices: list[protocol.ChunkChoice], spent: Any = None) -> str:
        """Return a part of a streamed answer as an event."""
        chunk = protocol.ChatChunk(
            id=name,
            object="chat.completion.chunk",
            created=created,
            model=self._name,
            choices=choices,
            system_fingerprint=FINGERPRINT,
        )
        if spent is not None:
            chunk.usage = spent
        return event_text(chunk.model_dump_json(exclude_unset=True))


class _Streamed:
    """The events of a streamed answer: roles, pieces of text, finish reasons, and the usage."""

    def __init__(self, chat: Chat, running: Running, asked: ChatRequest, name: str) -> None:
        self._chat, self._running, self._asked, self._name = chat, running, asked, name
        self._created = int(time.time())
        self._sent = [0] * len(running.watched)  # characters
        self._tokens = [0] * len(running.watched)
        self._over = [False] * len(running.watched)

    async def events(self) -> AsyncIterator[str]:
        for number in range(len(self._sent)):
            yield self._event(number, protocol.Delta(role="assistant", content=""))
        try:
            while not (all(self._over) or self._running.gone):
                for number, choice in enumerate(self._running.watched):
                    for part in self._new(number, choice):
                        yield part
                if not all(self._over) and not await self._running.step(KEEP_ALIVE_SECONDS):
                    yield KEEP_ALIVE
        except ApiError as error:  # the HTTP status has already been sent
            event("failed in a stream", 30, reason=str(error))
            yield event_json(body(error))
            yield event_text("[DONE]")
            return
        if self._running.gone:
            return
        options = self._asked.stream_options
        if options is not None and options.include_usage:
            spent = usage([self._chat.result(choice) for choice in self._running.watched])
            yield self._chat.chunk(self._name, self._created, [], spent)
        yield event_text("[DONE]")

    def _new(self, number: int, choice: Watched) -> list[str]:
        """Return the events for the new tokens of a choice."""
        if self._over[number]:
            return []
        handle = choice.handle
        ended = handle.done  # read first, so that everything read after it is complete
        result = self._chat.result(choice) if ended else None
        text = result.text if result is not None else handle.text
        known = len(handle.token_ids)
        if not ended:
            known = min(known, len(handle.logprobs))
            if self._asked.top_logprobs:
                known = min(known, len(handle.top_logprobs))
        new, self._sent[number] = text[self._sent[number] :], max(self._sent[number], len(text))
        logprobs = None
        if self._asked.logprobs and known > self._tokens[number]:
            logprobs = self._chat.logprobs(handle, self._tokens[number], known)
        self._tokens[number] = known
        events = []
        if new or logprobs is not None:
            events.append(self._event(number, protocol.Delta(content=new), logprobs))
        if result is not None:
            choice.look()
            self._over[number] = True
            reason = finish_reason(result, self._asked)
            events.append(self._event(number, protocol.Delta(), None, reason, result.stop_reason))
        return events

    def _event(
        self,
        number: int,
        delta: protocol.Delta,
        logprobs: protocol.ChoiceLogprobs | None = None,
        reason: str | None = None,
        stop_reason: str | int | None = None,
    ) -> str:
        choice = protocol.ChunkChoice(
            index=number, delta=delta, logprobs=logprobs, finish_reason=reason, stop_reason=stop_reason
        )
        return self._chat.chunk(self._name, self._created, [choice])


def finish_reason(result: Any, asked: ChatRequest) -> str:
    """Return the finish reason. Clients see "length" for a text that was stopped because it repeated itself, unless the
    request asks for "repetition"."""
    reason: str = result.finish_reason
    return "length" if reason == "repetition" and not asked.report_repetition else reason


def usage(readings: Sequence[Any]) -> protocol.Usage:
    """Return the token counts of a request. The prompt, which its choices share, counts once."""
    prompt = readings[0].prompt_tokens if readings else 0
    new = sum(result.new_tokens for result in readings)
    cached = protocol.PromptTokensDetails(cached_tokens=readings[0].reused_tokens if readings else 0)
    return protocol.Usage(
        prompt_tokens=prompt, completion_tokens=new, total_tokens=prompt + new, prompt_tokens_details=cached
    )


async def parsed(http: Request, kind: type[Kind], pool: ThreadPoolExecutor) -> Kind:
    """Parse the body of a request.

    Raises:
        ApiError: the body is not JSON, or a field is missing or invalid.
    """
    form = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if form != "application/json":
        await drain(http)
        raise ApiError(f"the Content-Type is {form[:60]!r}: send application/json", 415, code="content_type_unsupported")
    content = await http.body()
    try:
        if len(content) <= SMALL_BODY:
            return kind.model_validate_json(content)
        return await asyncio.get_running_loop().run_in_executor(pool, kind.model_validate_json, content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "json_invalid":
            raise ApiError(f"the body is not JSON ({first['msg']}): send a JSON object", code="body_not_json") from error
        raise ApiError(
            f"{where or 'the body'} cannot be used ({first['msg']}): see the API description in /openapi.json",
            param=where.split(".")[0] or None,
            code="field_invalid",
        ) from error


async def drain(http: Request) -> None:
    """Read and discard the body of a request, because many clients read the response only after they have sent it."""
    async for _ in http.stream():
        pass


def _header(names: Sequence[str]) -> str:
    """Return names of fields, which may contain any characters, as the value of a header."""
    text = ", ".join(names[:20]).encode("ascii", "backslashreplace").decode()
    return "".join(c if c.isprintable() else "?" for c in text)[:500]
