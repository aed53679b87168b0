"""Qwen2VLModel, the main class of the Python API."""

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
    """A Qwen2-VL or Qwen2.5-VL model that reads documents on MindSpore. It is thread-safe. ``requests.trace`` gives logits.

    Args:
        model_name: a checkpoint folder as on Hugging Face, a merged .npz file, or an exported folder; by default the
            built-in checkpoint.
        device: "cpu", "npu:0" (or "Ascend") or "cuda"; or a ``Device``, which also contains settings for MindSpore.
        lora_weights_path: a LoRA adapter in PEFT's format, merged into the weights in float32; see :meth:`set_adapter`.
        cache_config: settings of the KV cache and of flash attention.
        max_length: length of a KV slot in tokens, for prompt and answer together. By default enough for the largest image
            and an answer of ``max_new_tokens``, at most 4096.
        max_new_tokens: maximum length of an answer if a call sets no limit; by default the checkpoint's value, or 1024.
        min_pixels: smallest area of an image after resizing; by default the checkpoint's.
        max_pixels: largest area of an image after resizing; by default the checkpoint's, or less if one image would
            otherwise leave no room in ``max_length``.
        attn: "auto" (as in ``cache_config``), "eager" (MindSpore's own operators) or "flash".
        threads: number of CPU threads of the process; by default all cores that it may use.
        dtype: dtype of the weights: "fp32", "bf16", "fp16", "int8", or "auto", which keeps the stored dtype. Activations are
            float32, so 16-bit weights lose no further precision if they are stored in 16 bits. With "int8", the inputs of
            matrix products are rounded to 8 bits as well.
        tensor_parallel: number of workers, started by msrun, over which the model is split (docs/cluster.md). All workers
            make the same calls in the same order.

    Raises:
        SetupError: the checkpoint, the device or a setting cannot be used.

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
        if tensor_parallel != 1:  # first, because msrun's scheduler waits long for workers that never join
            self._device.activate(threads)
            self._network.ranks = Ranks.join(tensor_parallel)
        self._asked_attention = self._network.attention(attn)
        with self._network.files() as folder:
            limits = self._network.limits(Limits(max_length, max_new_tokens, min_pixels, max_pixels))
            self._max_length, self._max_new_tokens, images = settle(folder, self.config, limits)
            self.processor = ChatProcessor(folder, self.config, images)
        self._memory = self._plan(cache_config or CacheConfig())
        manager = self._memory.new_manager()
        self._device.activate(threads)
        self._backends = self._memory.new_backends()
        kv = self._memory.new_kv(self._backends)
        graphs = self._network.graphs(self._device, dtype, self._memory, self._backends, kv)
        self.engine = Engine(graphs, kv, manager, self._base)
        self.scheduler = Scheduler(self.engine)
        self.requests = Requests(
            self.config, self.processor, self.scheduler, self._network.ranks, self._max_length, self._max_new_tokens
        )

    @classmethod
    def from_exported(cls, folder: str | Path, **options: Any) -> "Qwen2VLModel":
        """Load a model from a folder written by `mindnlp-ocr export` (docs/export.md).

        Args:
            options: arguments of the class. Settings that are fixed by the export must be left out or have the same value.

        Raises:
            SetupError: the folder is not an export, is damaged, or was written by another version.
        """
        if not (Path(folder) / FILE).exists():
            raise SetupError(f"{folder} contains no {FILE}: pass one that mindnlp-ocr export wrote", code="export_missing")
        return cls(folder, **options)

    @classmethod
    def from_mindnlp(cls, model: Any, processor: str | Path | None = None, **options: Any) -> "Qwen2VLModel":
        """Create a model from the current weights of a Qwen2-VL model of mindnlp (docs/mindnlp.md).

        Args:
            model: the mindnlp model.
            processor: a folder with tokenizer.json and preprocessor_config.json; by default the folder from which ``model``
                was loaded.
            options: arguments of the class.
        """
        from mindnlp_ocr.interop import MindNLPCheckpoint

        return cls(MindNLPCheckpoint(model, processor), **options)

    # Reading

    def infer(self, messages: Messages, max_new_tokens: int | None = None, sampling: SamplingParams | None = None) -> str:
        """Return the answer to chat messages as text. See :meth:`generate`."""
        return self.generate(messages, max_new_tokens, sampling=sampling).text

    def generate(
        self,
        messages: Messages,
        max_new_tokens: int | None = None,
        on_text: Callable[[str], None] | None = None,
        sampling: SamplingParams | None = None,
    ) -> Reading:
        """Generate the answer to chat messages, by default greedily. The same messages always give the same tokens,
        independently of the contents of the cache.

        Args:
            messages: [{"role": "user", "content": [{"type": "image", "image": ...}, {"type": "text", "text": ...}]}, ...];
                an image is a path, bytes, a data URL, a Pillow image or a uint8 NumPy array.
            max_new_tokens: maximum length of the answer in tokens.
            on_text: called with each piece of text as it is decoded.
            sampling: sampling parameters and stop conditions. With a seed, sampled texts are reproducible as well.

        Raises:
            PageError: the messages, images or settings are invalid. The model remains usable.
        """
        generation = self.requests.generation(messages, max_new_tokens, sampling, grows=on_text is not None)
        return self.requests.read(generation, on_text)

    def stream(
        self, messages: Messages, max_new_tokens: int | None = None, sampling: SamplingParams | None = None
    ) -> Iterator[str]:
        """Yield the answer in pieces as it is generated. Closing the iterator cancels the request. See :meth:`generate`."""
        return self.requests.stream(self.requests.generation(messages, max_new_tokens, sampling, grows=True))

    def submit(
        self,
        messages: Messages,
        sampling: SamplingParams | None = None,
        *,
        priority: int = 0,
        deadline_seconds: float | None = None,
        on_change: Callable[[RequestHandle], None] | None = None,
    ) -> RequestHandle:
        """Queue a request and return immediately. May be called from any thread. Requests run while any thread waits for a
        request of this model, or within :meth:`serving`. All running requests share each step.

        Args:
            messages: see :meth:`generate`. Images are opened in the calling thread.
            priority: requests with lower numbers start first; equal numbers start in the order of arrival.
            deadline_seconds: time from now after which an unfinished request fails.
            on_change: called after each step in which the request got tokens or ended, in the thread that ran the step.

        Raises:
            PageError: the messages, images or settings are invalid.
            QueueFullError: too many requests are waiting, see :class:`SchedulerConfig`. It is a subclass of PageError.
        """
        return self.requests.submit(messages, sampling, priority, deadline_seconds, on_change)

    def check_room(self) -> None:
        """Raise a QueueFullError if :meth:`submit` would reject a request now."""
        self.scheduler.check_room()

    def serving(self) -> AbstractContextManager[None]:
        """A context manager within which a background thread runs submitted requests."""
        return self.scheduler.serving()

    def infer_batch(
        self,
        list_of_messages: Iterable[Messages | Request],
        max_new_tokens: int | None = None,
        batch_size: int | None = None,
        sampling: SamplingParams | None = None,
    ) -> list[str]:
        """Return the answers to several chat messages, in order. See :meth:`generate_batch`.

        Raises:
            BatchError: some requests failed. It is raised after all have ended, and contains all results.
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
        """Generate the answers to many chat messages with continuous batching. The tokens are the same as with
        :meth:`generate`.

        Args:
            list_of_messages: consumed one by one as slots become free. A ``Request`` has individual settings.
            max_new_tokens, sampling: see :meth:`generate`.
            batch_size: number of concurrent requests; by default 8, or the number of slots if that is lower.

        Yields:
            The index of the messages in the list, and the result or the error, in the order in which requests end.

        Raises:
            SetupError: there are fewer slots than ``batch_size``.
        """
        batch_size = self._memory.batch_size(batch_size, self.slots)
        if self.engine.manager is not None:
            self.engine.manager.configure(workers=batch_size)
        return self.requests.batch(list_of_messages, max_new_tokens, sampling, batch_size)

    def forecast(self, messages: Messages, max_new_tokens: int | None = None) -> Forecast:
        """Return how much memory a request will need, without running it. Errors as :meth:`generate`."""
        return forecast(self.requests.generation(messages, max_new_tokens), self._backends, self._memory.item_bytes)

    def warm_up(self, batch_size: int = 1) -> None:
        """Compile all graphs for prompts with one image, so that nothing is compiled while pages are read.

        Graphs for several small images together, which a batch may use, are compiled when they are first needed.
        """
        images = self.processor.images
        with self.engine.idle("warm_up"):
            self.engine.graphs.warm_up(
                patches=images.max_pixels // images.patch_size**2,
                tokens=min(self._max_length, images.max_pixels // images.pixels_per_token + TEXT_TOKENS),
                segments=min(batch_size, self.engine.kv.shape[0]) if self.engine.manager is not None else 0,
            )
            self.clear_cache()

    # Tokens and files

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return the text of tokens, by default without special tokens."""
        return self.processor.decode(token_ids, skip_special_tokens)

    def pieces(self, token_ids: Sequence[int]) -> list[str]:
        """Return the text that each token adds, "" for a token that ends within a character."""
        stream = self.processor.stream()
        return [stream.feed(token_id) for token_id in token_ids]

    @property
    def checkpoint_path(self) -> str:
        """Path of the checkpoint, or its name if it was not loaded from a file."""
        paths = self._network.stored.paths
        return str(paths[0]) if paths else self._network.name

    @property
    def slots(self) -> int:
        """Number of KV slots, which limits the number of concurrent requests."""
        return int(self.engine.kv.shape[0])

    @property
    def device(self) -> Device:
        """The device on which the model runs."""
        return self._device

    def files(self) -> AbstractContextManager[Path]:
        """A context manager for a folder with the checkpoint's JSON files."""
        return self._network.files()

    # The adapter

    def set_adapter(self, lora_weights_path: str | Path | None) -> None:
        """Switch to another adapter, or to none. Only the weights that change are read again.

        Cached prefixes of the previous adapter stay valid for a later switch back.

        Raises:
            SetupError: the adapter cannot be used or switched, or requests are running. The previous adapter stays in use.
                After an error while weights are read, the model must be loaded again.
        """
        adapter = None if lora_weights_path is None else Adapter(lora_weights_path)
        with self.engine.idle("set_adapter"):
            changed = self._network.switch(self.engine.graphs, adapter)
            self.engine.base = self._base
            if self.engine.manager is not None and any(name.startswith("visual.") for name in changed):
                self.engine.manager.forget_features()

    # The cache

    def get_cache_stats(self) -> dict[str, Any]:
        """Return the statistics of the cache: total_requests, cache_hits, cache_misses, hit_rate, total_memory_mb,
        evictions, cache_items, and those of :meth:`CacheManager.stats`. All are zero if the cache is off."""
        manager = self.engine.manager
        return manager.stats() if manager is not None else dict(CacheStats().as_dict(0, 0))

    def reset_cache_stats(self) -> None:
        """Reset the counters of the cache statistics."""
        if self.engine.manager is not None:
            self.engine.manager.reset_stats()

    def clear_cache(self) -> None:
        """Discard all cached prefixes, image features and images. Slots stay allocated, and running requests continue."""
        self.processor.forget_images()
        if self.engine.manager is not None:
            self.engine.manager.clear()

    def update_cache_config(self, config: CacheConfig) -> None:
        """Change the settings of the cache.

        If the number of slots is reduced, the least recently used entries are evicted, and running requests continue. A
        change of dtype or attention, and switching the cache on or off, discards all entries and requires that no request is
        running.

        Raises:
            SetupError: the settings are invalid, or requests are running. The previous settings stay in effect.
        """
        plan, engine = self._plan(config), self.engine
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
        """Write every cached prefix to a folder, one safetensors file each. Returns the number of prefixes.

        The oldest files of the folder are removed until it is not larger than ``max_cache_size_mb``.

        Raises:
            SetupError: the folder cannot be written.
        """
        self._network.ranks.check_store()
        return persist.save(self.engine, Path(path), self._stored_base, self._memory.cache.max_bytes)

    def load_cache(self, path: str | os.PathLike[str]) -> int:
        """Read the prefixes of a folder into free slots. Returns the number of prefixes.

        A damaged file, or one of another checkpoint, dtype or version, is skipped with a warning.
        """
        self._network.ranks.check_store()
        return persist.load(self.engine, Path(path), self._stored_base(self._base), self._base)

    def get_model_info(self) -> dict[str, Any]:
        """Return information about the model, the device, and the settings in effect. ``compilations`` stays constant once
        all graphs in use are compiled."""
        return model_info(self._network, self._memory, self.engine, self.processor.images.max_pixels)

    # Plans and identifiers

    def _plan(self, cache: CacheConfig) -> Memory:
        network = self._network
        return Memory.planned(
            network.config, network.rank_config, self._device, self._max_length, network.cache(cache), self._asked_attention
        )

    @property
    def _base(self) -> str:
        """Identifies everything, besides tokens and images, on which keys and values depend within this process."""
        adapter = "" if self._network.adapter is None else f" lora {self._network.adapter.digest}"
        return f"{self._memory.kv_dtype} {self._memory.attention.implementation}{adapter}"

    def _stored_base(self, base: str) -> str:
        """The same for files, which may come from another checkpoint, instruction set or release."""
        code = f"{select.code_for(self._device)} mindnlp_ocr {__version__}"
        return f"{self._network.fingerprint} {self._network.dtype} {base} {code}"
