"""Integration of mineru-vl-utils: a ``VlmClient`` for a model in this process, and the two-step client on top of it.

Importing this module requires the extra ``mineru``; ``two_steps.py`` imports it on demand.
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
    """The output of one request.

    Attributes:
        finish_reason: see :class:`Reading`.
        timings_ms: see :class:`Reading`.
        fault: why the request failed; the text is empty in this case.
    """

    finish_reason: str = "stop"
    timings_ms: dict[str, float] | None = None
    fault: str | None = None


class EngineVlmClient(VlmClient):
    """A ``VlmClient`` for a model in this process. Its methods may be called from several threads and event loops.

    All requests go through the scheduler of the model, at most ``batch_size`` of each call at a time, and share its slots
    and steps with the requests of all other callers.

    Args:
        model: the model.
        batch_size: number of concurrent requests of one call; by default, the number of slots.
        max_new_tokens: maximum number of new tokens of requests that do not set it; by default, the model's limit.
        wanted: called between requests; if it returns False, the call ends with an error.
        options: options of ``VlmClient``. With ``isolate_block_errors``, a request that fails gives an empty text.
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

    # Creating requests

    def messages(self, image: Images, prompt: str) -> Messages:
        """Return the chat messages of a request.

        Images replace ``<image>`` in the prompt. Without this marker, they precede the text, or follow it with
        ``text_before_image``.
        """
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
        """Convert sampling parameters of mineru-vl-utils; parameters without a value are off."""
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
        """Convert the outcome of a request.

        Raises:
            RequestError: the request failed, or its answer was truncated and truncated content is not allowed.
        """
        if isinstance(outcome, PageError):
            if not self.isolate_block_errors:
                raise RequestError(str(outcome)) from outcome
            return EngineOutput("", [], [], *compute_confidence_metrics([]), fault=str(outcome))
        tokens = outcome.token_ids
        if outcome.finish_reason == "stop" and outcome.stop_reason is None:
            tokens = tokens[:-1]  # the end token is not part of the text
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

    # Synchronous interface

    def predict(
        self, image: Images, prompt: str = "", sampling_params: TheirSampling | None = None, priority: int | None = None
    ) -> str:
        """Return the text that answers a prompt about an image."""
        return str(self.predict_scored(image, prompt, sampling_params, priority).text)

    def batch_predict(
        self,
        images: Sequence[Images],
        prompts: Sequence[str] | str = "",
        sampling_params: Sequence[TheirSampling | None] | TheirSampling | None = None,
        priority: Sequence[int | None] | int | None = None,
    ) -> list[str]:
        """Return the texts that answer prompts about many images, in order."""
        return [output.text for output in self.batch_predict_scored(images, prompts, sampling_params, priority)]

    def predict_scored(
        self, image: Images, prompt: str = "", sampling_params: TheirSampling | None = None, priority: int | None = None
    ) -> EngineOutput:
        """Return the answer with its tokens and their log-probabilities."""
        return self.batch_predict_scored([image], [prompt], [sampling_params], [priority])[0]

    def batch_predict_scored(
        self,
        images: Sequence[Images],
        prompts: Sequence[str] | str = "",
        sampling_params: Sequence[TheirSampling | None] | TheirSampling | None = None,
        priority: Sequence[int | None] | int | None = None,
    ) -> list[EngineOutput]:
        """Return the answers for many images. ``priority`` is ignored: the requests of a call start in order."""
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
        """Pair every image with its settings, each of which is one value for all images or a list with one for each."""
        lists = [
            list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value] * len(images)
            for value in settings
        ]
        if wrong := [len(value) for value in lists if len(value) != len(images)]:
            raise RequestError(f"{len(images)} images come with {wrong[0]} settings: pass one for each, or one for all")
        return list(zip(images, *lists, strict=True))

    # Asynchronous interface

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
        """:meth:`predict_scored`, without blocking the event loop. Requests with a lower ``priority`` start first."""
        self._check_wanted()
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def changed(handle: RequestHandle) -> None:
            if handle.done:
                with suppress(RuntimeError):  # the loop was closed
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
        """:meth:`batch_predict_scored`, without blocking the event loop and without a progress bar."""
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
        """Run a serving thread while at least one caller is in this context."""
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
    """Stands in for the model and processor that the constructor of ``MinerUClient`` requires but does not use later."""

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
    """The two-step client of mineru-vl-utils on top of another ``VlmClient``.

    The constructor of the base class accepts only the library's own backends, so it is called with one that needs no further
    package, and the client is replaced afterwards. Blocks keep their detected kind in ``label``, because post-processing
    changes some kinds.

    Args:
        client: the client that runs the requests.
        prompts: prompts by kind of block, including "[layout]" and "[default]", that replace those of the library.
        sampling_params: sampling parameters by kind of block, likewise.
        review: receives the blocks of a page and the answer from which they were parsed, and returns the blocks to read.
        options: options of ``MinerUClient``.
    """

    def __init__(
        self,
        client: VlmClient,
        prompts: dict[str, str] | None = None,
        sampling_params: dict[str, TheirSampling] | None = None,
        review: Review | None = None,
        **options: Any,
    ) -> None:
        logger.disable("mineru_vl_utils")  # problems are reported as warnings of the page
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
        """Detect the blocks of a page."""
        found = super().layout_detect(image, priority, scored)
        for block in found:
            block["label"] = block.type
        if self._review is None or found.layout_scored is None:
            return found
        return ExtractResult(self._review(image, list(found), found.layout_scored), found.layout_scored)


__all__ = ["EngineMinerUClient", "EngineOutput", "EngineVlmClient", "MinerUSamplingParams"]
