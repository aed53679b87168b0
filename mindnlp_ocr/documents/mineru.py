"""The engine behind mineru-vl-utils: its ``VlmClient`` on a model in this process, and its two-step client on top of that.

Importing this module needs the extra ``mineru``; ``two_steps.py`` imports it where it is asked for.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from loguru import logger
from mineru_vl_utils.mineru_client import DEFAULT_PROMPTS, DEFAULT_SAMPLING_PARAMS, MinerUClient, MinerUSamplingParams
from mineru_vl_utils.structs import ContentBlock, ExtractResult
from mineru_vl_utils.vlm_client.base_client import (
    RequestError,
    ScoredOutput,
    VlmClient,
    compute_confidence_metrics,
)
from mineru_vl_utils.vlm_client.base_client import SamplingParams as TheirSampling
from PIL import Image

from mindnlp_ocr.engine.generate import Reading
from mindnlp_ocr.errors import PageError
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
from mindnlp_ocr.models.requests import Request, RequestHandle
from mindnlp_ocr.processing.chat import Messages
from mindnlp_ocr.sampling import SamplingParams

OneImage = Image.Image | bytes | str
Images = OneImage | Sequence[OneImage] | None


@dataclass
class EngineOutput(ScoredOutput):
    """What was read in one request.

    Attributes:
        finish_reason: of the reading, see :class:`Reading`.
        timings_ms: of the reading.
        fault: why it could not be read; the text is empty then.
    """

    finish_reason: str = "stop"
    timings_ms: dict[str, float] | None = None
    fault: str | None = None


class EngineVlmClient(VlmClient):
    """Reads with a model of this process. Its methods may be called from several threads and event loops.

    All requests go through the scheduler of the model, at most ``batch_size`` of a call at a time, and so share its slots
    and steps with those of every other caller.

    Args:
        model: what reads.
        batch_size: requests of one call at a time; by default as many as there are slots.
        max_new_tokens: longest answer of a request that names none; by default the model's own.
        wanted: asked between requests; False ends what is left of a call with an error.
        options: those of ``VlmClient``. With ``isolate_block_errors`` a request that cannot be read gives an empty text.
    """

    def __init__(
        self,
        model: Qwen2VLModel,
        batch_size: int | None = None,
        max_new_tokens: int | None = None,
        wanted: Callable[[], bool] = lambda: True,
        **options: Any,
    ) -> None:
        super().__init__(**{"allow_truncated_content": True, **options})
        self._model, self._max_new_tokens, self._wanted = model, max_new_tokens, wanted
        self._batch_size = min(batch_size or model.slots, model.slots)
        self._lock = threading.Lock()
        self._drivers, self._driver = 0, ExitStack()

    # What a request is

    def messages(self, image: Images, prompt: str) -> Messages:
        """The chat messages of a request: images stand where the prompt says <image>, else before it, or after it with
        ``text_before_image``."""
        given = [] if image is None else [image] if isinstance(image, Image.Image | bytes | str) else list(image)
        prompt = prompt or self.prompt
        pictures = [{"type": "image", "image": one} for one in given]
        texts = prompt.split("<image>", len(pictures)) if "<image>" in prompt else []
        if texts:
            content: list[dict[str, Any]] = []
            for number in range(max(len(texts), len(pictures))):
                content += [{"type": "text", "text": text} for text in texts[number : number + 1] if text]
                content += pictures[number : number + 1]
        else:
            text = [{"type": "text", "text": prompt}]
            content = [*text, *pictures] if self.text_before_image else [*pictures, *text]
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        return [*system, {"role": "user", "content": content}]

    def sampling(self, given: TheirSampling | None) -> SamplingParams:
        """Settings of a request under our names; what neither names is off."""
        theirs = self.build_sampling_params(given)
        named = {
            "temperature": theirs.temperature,
            "top_p": theirs.top_p,
            "top_k": theirs.top_k,
            "presence_penalty": theirs.presence_penalty,
            "frequency_penalty": theirs.frequency_penalty,
            "repetition_penalty": theirs.repetition_penalty,
            "no_repeat_ngram_size": theirs.no_repeat_ngram_size,
            "max_new_tokens": theirs.max_new_tokens or self._max_new_tokens,
        }
        return SamplingParams(
            **{name: value for name, value in named.items() if value is not None}, skip_special_tokens=False
        )

    def output(self, outcome: Reading | PageError) -> EngineOutput:
        """What a request came to.

        Raises:
            RequestError: it cannot be read, or was cut off where that is not allowed.
        """
        if isinstance(outcome, PageError):
            if not self.isolate_block_errors:
                raise RequestError(str(outcome)) from outcome
            return EngineOutput("", [], [], *compute_confidence_metrics([]), fault=str(outcome))
        tokens = outcome.token_ids
        if outcome.finish_reason == "stop" and outcome.stop_reason is None:
            tokens = tokens[:-1]  # the end of the text is a special token, and no part of it
        elif outcome.finish_reason != "stop" and not self.allow_truncated_content:
            raise RequestError(
                f"the answer was cut off after {outcome.new_tokens} tokens ({outcome.finish_reason}): allow more new "
                "tokens, or allow truncated content"
            )
        return EngineOutput(
            self._model.decode(tokens, skip_special_tokens=False),
            list(tokens),
            list(outcome.logprobs),
            *compute_confidence_metrics(list(outcome.logprobs)),
            finish_reason=outcome.finish_reason,
            timings_ms=outcome.timings_ms,
        )

    # In threads

    def predict(
        self, image: Images, prompt: str = "", sampling_params: TheirSampling | None = None, priority: int | None = None
    ) -> str:
        """The text that answers a prompt about an image."""
        return str(self.predict_scored(image, prompt, sampling_params, priority).text)

    def batch_predict(
        self,
        images: Sequence[Images],
        prompts: Sequence[str] | str = "",
        sampling_params: Sequence[TheirSampling | None] | TheirSampling | None = None,
        priority: Sequence[int | None] | int | None = None,
    ) -> list[str]:
        """The texts that answer many, in their order."""
        return [output.text for output in self.batch_predict_scored(images, prompts, sampling_params, priority)]

    def predict_scored(
        self, image: Images, prompt: str = "", sampling_params: TheirSampling | None = None, priority: int | None = None
    ) -> EngineOutput:
        """The same with its tokens and their log-probabilities."""
        return self.batch_predict_scored([image], [prompt], [sampling_params], [priority])[0]

    def batch_predict_scored(
        self,
        images: Sequence[Images],
        prompts: Sequence[str] | str = "",
        sampling_params: Sequence[TheirSampling | None] | TheirSampling | None = None,
        priority: Sequence[int | None] | int | None = None,
    ) -> list[EngineOutput]:
        """The same for many. ``priority`` is not read: requests of a call begin in their order."""
        asked = self._asked(images, prompts, sampling_params, priority)
        outputs: dict[int, EngineOutput] = {}

        def requests() -> Iterator[Request]:
            for image, prompt, sampling, _ in asked:
                self._check_wanted()
                yield Request(self.messages(image, prompt), sampling=self.sampling(sampling))

        for number, outcome in self._model.generate_batch(requests(), batch_size=self._batch_size):
            self._check_wanted()
            outputs[number] = self.output(outcome)
        return [outputs[number] for number in range(len(asked))]

    def _check_wanted(self) -> None:
        if not self._wanted():
            raise RequestError("the reading was cancelled")

    @staticmethod
    def _asked(images: Sequence[Images], *settings: Any) -> list[tuple[Any, ...]]:
        """The settings of every image: each is one for all, or one for each."""
        lists = [
            list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value] * len(images)
            for value in settings
        ]
        if wrong := [len(value) for value in lists if len(value) != len(images)]:
            raise RequestError(f"{len(images)} images come with {wrong[0]} settings: give one for each, or one for all")
        return list(zip(images, *lists, strict=True))

    # In an event loop

    async def aio_predict(
        self, image: Images, prompt: str = "", sampling_params: TheirSampling | None = None, priority: int | None = None
    ) -> str:
        """:meth:`predict`, without blocking the event loop."""
        return str((await self.aio_predict_scored(image, prompt, sampling_params, priority)).text)

    async def aio_batch_predict(
        self,
        images: Sequence[Images],
        prompts: Sequence[str] | str = "",
        sampling_params: Sequence[TheirSampling | None] | TheirSampling | None = None,
        priority: Sequence[int | None] | int | None = None,
        semaphore: asyncio.Semaphore | None = None,
        use_tqdm: bool = False,
        tqdm_desc: str | None = None,
    ) -> list[str]:
        """:meth:`batch_predict`, without blocking the event loop."""
        outputs = await self.aio_batch_predict_scored(images, prompts, sampling_params, priority, semaphore)
        return [output.text for output in outputs]

    async def aio_predict_scored(
        self, image: Images, prompt: str = "", sampling_params: TheirSampling | None = None, priority: int | None = None
    ) -> EngineOutput:
        """:meth:`predict_scored`, without blocking the event loop. Requests of a lower ``priority`` begin first."""
        self._check_wanted()
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def changed(handle: RequestHandle) -> None:
            if handle.done:
                with suppress(RuntimeError):  # the loop has been closed
                    loop.call_soon_threadsafe(ended.set)

        def submit() -> RequestHandle:
            sampling = self.sampling(sampling_params)
            return self._model.submit(self.messages(image, prompt), sampling, priority=priority or 0, on_change=changed)

        with self._driven():
            try:
                handle = await asyncio.to_thread(submit)
            except PageError as error:
                return self.output(error)
            try:
                await ended.wait()
            finally:
                if not handle.done:
                    handle.cancel()
        try:
            return self.output(handle.result(0))
        except PageError as error:
            return self.output(error)

    async def aio_batch_predict_scored(
        self,
        images: Sequence[Images],
        prompts: Sequence[str] | str = "",
        sampling_params: Sequence[TheirSampling | None] | TheirSampling | None = None,
        priority: Sequence[int | None] | int | None = None,
        semaphore: asyncio.Semaphore | None = None,
        use_tqdm: bool = False,
        tqdm_desc: str | None = None,
    ) -> list[EngineOutput]:
        """:meth:`batch_predict_scored`, without blocking the event loop; no bar is shown."""
        room = semaphore or asyncio.Semaphore(self._batch_size)

        async def one(asked: tuple[Any, ...]) -> EngineOutput:
            async with room:
                return await self.aio_predict_scored(*asked)

        tasks = [asyncio.ensure_future(one(asked)) for asked in self._asked(images, prompts, sampling_params, priority)]
        with self._driven():
            try:
                return list(await asyncio.gather(*tasks))
            finally:
                for task in tasks:
                    task.cancel()

    @contextmanager
    def _driven(self) -> Iterator[None]:
        """A thread runs what is submitted for as long as somebody is in this context."""
        with self._lock:
            self._drivers += 1
            if self._drivers == 1:
                self._driver.enter_context(self._model.serving())
        try:
            yield
        finally:
            with self._lock:
                self._drivers -= 1
                if self._drivers == 0:
                    self._driver.close()


Review = Callable[[Image.Image, list[ContentBlock], EngineOutput], list[ContentBlock]]


class _Nothing:
    """What the constructor of ``MinerUClient`` wants of a model and its processor; nothing of it is used after."""

    tokenizer = generation_config = None
    max_position_embeddings = 0

    @property
    def config(self) -> "_Nothing":
        return self

    def get_text_config(self, decoder: bool) -> "_Nothing":
        return self

    def generate(self) -> None: ...

    def apply_chat_template(self) -> None: ...


class EngineMinerUClient(MinerUClient):
    """The two steps of mineru-vl-utils with a client of ours.

    Its constructor takes one of the library's own backends, so it is built for one that needs nothing to be installed, and
    then given ours. Blocks keep the kind that the layout gave them under ``label``: post-processing changes some.

    Args:
        client: what reads.
        prompts: by kind of block, in place of the library's; "[layout]" and "[default]" among them.
        sampling_params: the same.
        review: sees the blocks of a page and the answer that they were parsed from, and gives those to be read.
        options: those of ``MinerUClient``.
    """

    def __init__(
        self,
        client: VlmClient,
        prompts: dict[str, str] | None = None,
        sampling_params: dict[str, TheirSampling] | None = None,
        review: Review | None = None,
        **options: Any,
    ) -> None:
        logger.disable("mineru_vl_utils")  # what it finds wrong is said by the page's own warnings
        super().__init__(
            backend="transformers",
            model=_Nothing(),
            processor=_Nothing(),
            prompts={**DEFAULT_PROMPTS, **(prompts or {})},
            sampling_params={**DEFAULT_SAMPLING_PARAMS, **(sampling_params or {})},
            use_tqdm=False,
            **options,
        )
        self.client, self._review = client, review

    def layout_detect(self, image: Image.Image, priority: int | None = None, scored: bool | None = None) -> ExtractResult:
        """The blocks of a page, before they are read."""
        found = super().layout_detect(image, priority, scored)
        for block in found:
            block["label"] = block.type
        if self._review is None or found.layout_scored is None:
            return found
        return ExtractResult(self._review(image, list(found), found.layout_scored), found.layout_scored)


__all__ = ["EngineMinerUClient", "EngineOutput", "EngineVlmClient", "MinerUSamplingParams"]
