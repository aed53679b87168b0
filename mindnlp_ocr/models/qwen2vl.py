"""Qwen2VLModel: what a user holds."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from mindnlp_ocr import __version__
from mindnlp_ocr.backends import select
from mindnlp_ocr.backends.select import Attention
from mindnlp_ocr.cache.config import CacheConfig
from mindnlp_ocr.cache.stats import CacheStats
from mindnlp_ocr.engine import persist
from mindnlp_ocr.engine.engine import Engine
from mindnlp_ocr.engine.forecast import Forecast, forecast
from mindnlp_ocr.engine.generate import Reading
from mindnlp_ocr.engine.scheduler import Scheduler
from mindnlp_ocr.errors import BatchError, PageError, SetupError
from mindnlp_ocr.export.manifest import FILE
from mindnlp_ocr.models.info import model_info
from mindnlp_ocr.models.limits import TEXT_TOKENS, Limits, settle
from mindnlp_ocr.models.memory import Memory
from mindnlp_ocr.models.network import AskedDtype, open_network
from mindnlp_ocr.models.requests import Request, RequestHandle, Requests
from mindnlp_ocr.ops.device import Device
from mindnlp_ocr.parallel.ranks import Ranks
from mindnlp_ocr.processing.chat import ChatProcessor, Messages
from mindnlp_ocr.sampling import SamplingParams
from mindnlp_ocr.weights.checkpoint import Checkpoint
from mindnlp_ocr.weights.lora import Adapter

EMBEDDED = Path(__file__).parent.parent / "assets" / "qwen2vl-ocr-tiny"


class Qwen2VLModel:
    """A Qwen2-VL or Qwen2.5-VL that reads documents on MindSpore. Its methods may be called from several threads.

    Args:
        model_name: a Hugging Face folder of a checkpoint, a merged .npz file of one, or an exported folder; by default the
            small one that ships with this package.
        device: "cpu", "npu:0" (or "Ascend") or "cuda"; or a ``Device``, which says how MindSpore is set up as well.
        lora_weights_path: a LoRA adapter as PEFT saves it, merged into the weights in float32; see :meth:`set_adapter`.
        cache_config: settings of the KV cache and of flash attention.
        max_length: tokens that one request may take, prompt and answer together: the length of a KV slot. By default
            as many as the largest image and an answer of ``max_new_tokens`` take, at most 4096.
        max_new_tokens: longest answer where a call names none; by default the checkpoint's own, or 1024.
        min_pixels, max_pixels: limits of an image after resizing; by default the checkpoint's own, the upper one lowered
            where one image would not leave room in ``max_length``.
        attn: "auto" (as ``cache_config`` says), "eager" (MindSpore's own attention) or "flash".
        threads: of a CPU, for the whole process; by default all cores that it may use.
        dtype: what weights are held in, "fp32", "bf16", "fp16" or "int8"; "auto": as the checkpoint stores them. All else is
            float32, so 16 bits change the text no more than storing the weights so did; "int8" rounds what is multiplied
            by weights to 8 bits too.
        tensor_parallel: workers, started by msrun, that hold this model together (docs/cluster.md); all make the same calls
            in the same order.

    Raises:
        SetupError: the checkpoint, the device or a setting cannot be used; the message says what to do.

    Example:
        >>> model = Qwen2VLModel()
        >>> page = {"type": "image", "image": "examples/invoice.png"}
        >>> question = {"type": "text", "text": "Extract all text from this image."}
        >>> print(model.infer([{"role": "user", "content": [page, question]}]))
    """

    def __init__(
        self,
        model_name: str | Path | Checkpoint = EMBEDDED,
        device: str | Device = "cpu",
        lora_weights_path: str | Path | None = None,
        cache_config: CacheConfig | None = None,
        *,
        max_length: int | None = None,
        max_new_tokens: int | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        attn: Attention = "auto",
        threads: int | None = None,
        dtype: AskedDtype = "auto",
        tensor_parallel: int = 1,
    ) -> None:
        self._network = open_network(model_name, lora_weights_path, tensor_parallel)
        self.config = self._network.config
        self._device = Device.parse(device)
        if tensor_parallel != 1:  # before all that can fail: msrun's scheduler waits long for who has never come
            self._device.activate(threads)
            self._network.ranks = Ranks.join(tensor_parallel)
        self._asked_attention = self._network.attention(attn)
        with self._network.files() as folder:
            limits = self._network.limits(Limits(max_length, max_new_tokens, min_pixels, max_pixels))
            self._max_length, self._max_new_tokens, images = settle(folder, self.config, limits)
            self._processor = ChatProcessor(folder, self.config, images)
        self._memory = self._plan(cache_config or CacheConfig())
        manager = self._memory.new_manager()
        self._device.activate(threads)
        self._backends = self._memory.new_backends()
        kv = self._memory.new_kv(self._backends)
        graphs = self._network.graphs(self._device, dtype, self._memory, self._backends, kv)
        self._engine = Engine(graphs, kv, manager, self._base)
        self.scheduler = Scheduler(self._engine)
        self._requests = Requests(
            self.config, self._processor, self.scheduler, self._network.ranks, self._max_length, self._max_new_tokens
        )

    @classmethod
    def from_exported(cls, folder: str | Path, **options: Any) -> "Qwen2VLModel":
        """On the graphs of a folder that `mindnlp-ocr export` wrote, without the Python network (docs/export.md).

        Args:
            options: those of the class; what was settled when it was exported can only be left out, or given alike.

        Raises:
            SetupError: the folder is no export, damaged, or from another version.
        """
        if not (Path(folder) / FILE).exists():
            raise SetupError(f"{folder} contains no {FILE}: give a folder written by mindnlp-ocr export")
        return cls(folder, **options)

    @classmethod
    def from_mindnlp(cls, model: Any, processor: str | Path | None = None, **options: Any) -> "Qwen2VLModel":
        """On the weights that a Qwen2-VL of mindnlp has now (docs/mindnlp.md).

        Args:
            processor: a folder with tokenizer.json and preprocessor_config.json; by default the one that it came from.
            options: those of the class.
        """
        from mindnlp_ocr.interop import MindNLPCheckpoint

        return cls(MindNLPCheckpoint(model, processor), **options)

    # Reading

    def infer(self, messages: Messages, max_new_tokens: int | None = None, sampling: SamplingParams | None = None) -> str:
        """The answer to chat messages, as text. See :meth:`generate`."""
        return self.generate(messages, max_new_tokens, sampling=sampling).text

    def generate(
        self,
        messages: Messages,
        max_new_tokens: int | None = None,
        on_text: Callable[[str], None] | None = None,
        sampling: SamplingParams | None = None,
    ) -> Reading:
        """Read, by default greedily: the same messages give the same tokens every time, whatever the cache holds.

        Args:
            messages: [{"role": "user", "content": [{"type": "image", "image": ...}, {"type": "text", "text": ...}]}, ...];
                an image is a path, bytes, a data URL, a Pillow image or a uint8 NumPy array.
            max_new_tokens: longest answer.
            on_text: called with each piece of text as it is decoded.
            sampling: how tokens are chosen and where the text ends. With a seed, too, the text is the same every time.

        Raises:
            PageError: these messages or images cannot be read; others can.
        """
        generation = self._requests.generation(messages, max_new_tokens, sampling, grows=on_text is not None)
        return self._requests.read(generation, on_text)

    def stream(
        self, messages: Messages, max_new_tokens: int | None = None, sampling: SamplingParams | None = None
    ) -> Iterator[str]:
        """The answer piece by piece. Closing the iterator ends the request and frees its slot. See :meth:`generate`."""
        return self._requests.stream(self._requests.generation(messages, max_new_tokens, sampling, grows=True))

    def submit(
        self,
        messages: Messages,
        sampling: SamplingParams | None = None,
        *,
        priority: int = 0,
        deadline_seconds: float | None = None,
        on_change: Callable[[RequestHandle], None] | None = None,
    ) -> RequestHandle:
        """Queue a request, from any thread, and return at once. It runs while somebody waits for a request of this model,
        or within :meth:`serving`; all that run share every step.

        Args:
            messages: as :meth:`generate`; their images are opened in the calling thread.
            priority: requests of a lower number begin first, those of one number in the order of arrival.
            deadline_seconds: from now; a request that is not done by then ends with an error.
            on_change: called after a step in which the request gained tokens or ended, by the thread that ran it.

        Raises:
            PageError: these messages, images or settings cannot be read.
            QueueFullError: too much waits already, see :class:`SchedulerConfig`; it is a PageError too.
        """
        return self._requests.submit(messages, sampling, priority, deadline_seconds, on_change)

    def check_room(self) -> None:
        """Whether :meth:`submit` would queue a request now. Raises QueueFullError where it would not."""
        self.scheduler.check_room()

    def serving(self) -> AbstractContextManager[None]:
        """While the context is open, a thread of its own runs what is submitted."""
        return self.scheduler.serving()

    def infer_batch(
        self,
        list_of_messages: Iterable[Messages | Request],
        max_new_tokens: int | None = None,
        batch_size: int | None = None,
        sampling: SamplingParams | None = None,
    ) -> list[str]:
        """The answers to many chat messages, in their order. See :meth:`generate_batch`.

        Raises:
            BatchError: some could not be read. It comes when all others have been, and holds them.
        """
        results: dict[int, Reading | PageError] = dict(
            self.generate_batch(list_of_messages, max_new_tokens, batch_size, sampling)
        )
        ordered = [results[number] for number in sorted(results)]
        if any(isinstance(result, PageError) for result in ordered):
            raise BatchError(ordered)
        return [result.text for result in ordered if isinstance(result, Reading)]

    def generate_batch(
        self,
        list_of_messages: Iterable[Messages | Request],
        max_new_tokens: int | None = None,
        batch_size: int | None = None,
        sampling: SamplingParams | None = None,
    ) -> Iterator[tuple[int, Reading | PageError]]:
        """Read many, several at a time; a text that ends makes room for the next. The tokens are those of :meth:`generate`.

        Args:
            list_of_messages: taken one by one, as there is room for them; a ``Request`` brings settings of its own.
            batch_size: how many at a time; by default 8, or as many as there are slots.

        Yields:
            The number of messages in the list, and what was read or why it could not be, in the order in which they end.

        Raises:
            SetupError: the budget holds fewer slots than ``batch_size``.
        """
        batch_size = self._memory.batch_size(batch_size, self.slots)
        if self._engine.manager is not None:
            self._engine.manager.configure(workers=batch_size)
        return self._requests.batch(list_of_messages, max_new_tokens, sampling, batch_size)

    def forecast(self, messages: Messages, max_new_tokens: int | None = None) -> Forecast:
        """The memory that messages will need, before they run. Errors as :meth:`generate`."""
        return forecast(self._requests.generation(messages, max_new_tokens), self._backends, self._memory.item_bytes)

    def warm_up(self, batch_size: int = 1) -> None:
        """Compile every graph that prompts of one image can need, so that nothing compiles while pages are read.

        Graphs for several small images at once, which a batch may use, are compiled when they are first needed.
        """
        images = self._processor.images
        with self._engine.idle("warm_up"):
            self._engine.graphs.warm_up(
                patches=images.max_pixels // images.patch_size**2,
                tokens=min(self._max_length, images.max_pixels // images.pixels_per_token + TEXT_TOKENS),
                segments=min(batch_size, self._engine.kv.shape[0]) if self._engine.manager is not None else 0,
            )
            self.clear_cache()

    # Tokens and files

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of tokens, without special ones unless they are asked for."""
        return self._processor.decode(token_ids, skip_special_tokens)

    def pieces(self, token_ids: Sequence[int]) -> list[str]:
        """The text that each token adds: "" for one that ends inside a character."""
        stream = self._processor.stream()
        return [stream.feed(token_id) for token_id in token_ids]

    @property
    def checkpoint_path(self) -> str:
        """Where the checkpoint lies; its name, where it lies in no file of its own."""
        paths = self._network.stored.paths
        return str(paths[0]) if paths else self._network.name

    @property
    def slots(self) -> int:
        """KV slots, and so requests that can run at a time."""
        return int(self._engine.kv.shape[0])

    @property
    def device(self) -> Device:
        """Where the model runs."""
        return self._device

    def files(self) -> AbstractContextManager[Path]:
        """A folder with the checkpoint's JSON files, for as long as the context is open."""
        return self._network.files()

    # The adapter

    def set_adapter(self, lora_weights_path: str | Path | None) -> None:
        """Read with another adapter from now on, or with none. Only the weights that change are read again.

        What is cached under an adapter stays, for its return.

        Raises:
            SetupError: the adapter cannot be used, changes weights that the graphs share, or requests are running; the old
                one stays. Files that fail while weights are read leave a model that must be loaded again.
        """
        adapter = None if lora_weights_path is None else Adapter(lora_weights_path)
        with self._engine.idle("set_adapter"):
            changed = self._network.switch(self._engine.graphs, adapter)
            self._engine.base = self._base
            if self._engine.manager is not None and any(name.startswith("visual.") for name in changed):
                self._engine.manager.forget_features()

    # The cache

    def get_cache_stats(self) -> dict[str, Any]:
        """The document's keys (total_requests, cache_hits, cache_misses, hit_rate, total_memory_mb, evictions, cache_items),
        then those of :meth:`CacheManager.stats`. Without a cache all is zero."""
        manager = self._engine.manager
        return manager.stats() if manager is not None else dict(CacheStats().as_dict(0, 0))

    def reset_cache_stats(self) -> None:
        """Count from zero."""
        if self._engine.manager is not None:
            self._engine.manager.reset_stats()

    def clear_cache(self) -> None:
        """Forget every cached prefix, all image features and images. The slots stay allocated, running requests go on."""
        self._processor.forget_images()
        if self._engine.manager is not None:
            self._engine.manager.clear()

    def update_cache_config(self, config: CacheConfig) -> None:
        """Use other settings from now on.

        Fewer slots evict the least recently used entries; running requests go on. Another dtype or attention, or the cache
        switched on or off, forgets all entries, and has to wait until no request runs.

        Raises:
            SetupError: the settings cannot be met, or requests are in the way. The old settings stay.
        """
        plan, engine = self._plan(config), self._engine
        with engine.lock:
            if not plan.same_slots(self._memory):
                with engine.idle("update_cache_config"):
                    manager = plan.new_manager()
                    if not plan.same_attention(self._memory):
                        self._backends = plan.new_backends()
                    engine.replace(self._backends, plan.new_kv(self._backends), manager)
            elif engine.manager is not None:
                engine.resize(plan.slots, config.max_bytes, lambda: plan.new_kv(self._backends))
                engine.manager.configure(lru=config.enable_lru, ttl_seconds=plan.cache.cache_ttl_seconds)
            self._memory = plan
            engine.base = self._base

    def save_cache(self, path: str | os.PathLike[str]) -> int:
        """Write every cached prefix to a folder, one safetensors file each. Returns how many.

        Of what the folder held before, the oldest files are removed until it keeps to ``max_cache_size_mb`` as well.

        Raises:
            SetupError: the folder cannot be written.
        """
        self._network.ranks.check_store()
        return persist.save(self._engine, Path(path), self._stored_base, self._memory.cache.max_bytes)

    def load_cache(self, path: str | os.PathLike[str]) -> int:
        """Read the prefixes of a folder into free slots. Returns how many.

        A file of another checkpoint, dtype or version, or a damaged one, is ignored with a warning that says why.
        """
        self._network.ranks.check_store()
        return persist.load(self._engine, Path(path), self._stored_base(self._base), self._base)

    def get_model_info(self) -> dict[str, Any]:
        """What runs, where and how; ``compilations`` stays put once the graphs in use are warm."""
        return model_info(self._network, self._memory, self._engine, self._processor.images.max_pixels)

    # What the settings come to

    def _plan(self, cache: CacheConfig) -> Memory:
        network = self._network
        return Memory.planned(
            network.config, network.rank_config, self._device, self._max_length, network.cache(cache), self._asked_attention
        )

    @property
    def _base(self) -> str:
        """What all keys and values of this process depend on beside their tokens and images: the checkpoint is one."""
        adapter = "" if self._network.adapter is None else f" lora {self._network.adapter.digest}"
        return f"{self._memory.kv_dtype} {self._memory.attention.implementation}{adapter}"

    def _stored_base(self, base: str) -> str:
        """The same for a file, which may come from anywhere: bits differ between instruction sets and releases too."""
        code = f"{select.code_for(self._device)} mindnlp_ocr {__version__}"
        return f"{self._network.fingerprint} {self._network.dtype} {base} {code}"
