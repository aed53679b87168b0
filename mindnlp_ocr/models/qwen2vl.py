"""Qwen2VLModel: what a user holds."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mindnlp_ocr.cache.config import CacheConfig
from mindnlp_ocr.cache.slots import KVSlots
from mindnlp_ocr.cache.stats import CacheStats
from mindnlp_ocr.engine.generate import Generation, Reading
from mindnlp_ocr.engine.graphs import MIN_TOKENS, Graphs
from mindnlp_ocr.errors import PageError, SetupError
from mindnlp_ocr.models.config import Qwen2VLConfig, read_json
from mindnlp_ocr.ops.device import Device
from mindnlp_ocr.ops.select import Attention, AttentionChoice, Attentions, attentions_for, choose_attention, kv_item_bytes
from mindnlp_ocr.processing.chat import ChatProcessor, Messages
from mindnlp_ocr.processing.images import ImageProcessor
from mindnlp_ocr.weights.folder import FolderWeights

EMBEDDED = Path(__file__).parent.parent / "assets" / "qwen2vl-ocr-tiny"
LONGEST_BY_DEFAULT = 4096
MAX_LENGTH = 1 << 18  # an image takes fewer positions than tokens, so max_position_embeddings does not bound a slot
TEXT_TOKENS = 256  # room for the question beside one image
DEFAULT_MAX_NEW_TOKENS = 1024


class Qwen2VLModel:
    """A Qwen2-VL that reads documents on MindSpore.

    Args:
        model_name: a Hugging Face folder of Qwen2-VL; by default the small checkpoint that ships with this package.
        device: "cpu", "npu:0" (or "Ascend") or "cuda".
        lora_weights_path: an adapter; this release refuses it.
        cache_config: settings of the KV cache and of flash attention.
        max_length: tokens that one request may take, prompt and answer together: the length of the KV slot. By default
            as many as the largest image and an answer of ``max_new_tokens`` take, at most 4096.
        max_new_tokens: longest answer where a call names none; by default the checkpoint's own, or 1024.
        min_pixels, max_pixels: limits of an image after resizing; by default the checkpoint's own, the upper one lowered
            where one image would not leave room in ``max_length``.
        attn: "auto" (as ``cache_config`` says), "eager" (MindSpore's own operators alone) or "flash".

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
        model_name: str | Path = EMBEDDED,
        device: str = "cpu",
        lora_weights_path: str | Path | None = None,
        cache_config: CacheConfig | None = None,
        *,
        max_length: int | None = None,
        max_new_tokens: int | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        attn: Attention = "auto",
    ) -> None:
        self._folder = _checked_folder(model_name)
        if lora_weights_path is not None:
            raise SetupError("LoRA adapters are not read by this release: merge the adapter into the checkpoint first")
        self._device = Device.parse(device)
        self._cache_config = cache_config or CacheConfig()
        self._asked_attention = attn
        self.config = Qwen2VLConfig.from_folder(self._folder)
        self._attention = self._choose_attention(self._cache_config)
        images = ImageProcessor.from_folder(self._folder)
        self._max_new_tokens = _longest_answer(self._folder, max_new_tokens)
        self._max_length = _slot_length(self.config, images, max_length, self._max_new_tokens, max_pixels)
        images = _limited(images, self._max_length, min_pixels, max_pixels)
        self._processor = ChatProcessor(self._folder, self.config, images)
        self._stats = CacheStats()
        self._check_budget(self._cache_config, self._attention)
        self._device.activate()
        self._attentions = self._new_attentions()
        self._kv = self._new_slots()
        with FolderWeights(self._folder, self.config) as weights:
            self._graphs = Graphs(self.config, weights, self._max_length, self._attentions, self._kv)

    # Reading

    def infer(self, messages: Messages, max_new_tokens: int | None = None) -> str:
        """The answer to chat messages, as text. See :meth:`generate`."""
        return self.generate(messages, max_new_tokens).text

    def generate(
        self, messages: Messages, max_new_tokens: int | None = None, on_text: Callable[[str], None] | None = None
    ) -> Reading:
        """Read, greedily: the same messages give the same tokens every time.

        Args:
            messages: [{"role": "user", "content": [{"type": "image", "image": ...}, {"type": "text", "text": ...}]}, ...];
                an image is a path, bytes, a data URL, a Pillow image or a uint8 NumPy array.
            max_new_tokens: longest answer.
            on_text: called with each piece of text as it is decoded.

        Raises:
            PageError: these messages or images cannot be read; others can.
        """
        limit = self._max_new_tokens if max_new_tokens is None else max_new_tokens
        if limit < 1:
            raise PageError(f"max_new_tokens is {limit}: give 1 or more")
        start = time.perf_counter()
        prompt = self._processor.prompt(messages)
        preprocess = time.perf_counter() - start
        generation = Generation(self._graphs, self.config, prompt, limit, self._max_length, self._kv is not None)
        if self._kv is not None:
            self._stats.misses += 1  # nothing is kept between requests yet
        pieces = self._processor.stream()
        for token in generation:
            if on_text is not None and (piece := pieces.feed(token)):
                on_text(piece)
        if on_text is not None and (piece := pieces.end()):
            on_text(piece)
        timings = {"preprocess": preprocess * 1e3, **generation.timings_ms, "total": (time.perf_counter() - start) * 1e3}
        return Reading(
            text=self._processor.decode(generation.token_ids),
            token_ids=generation.token_ids,
            finish_reason=generation.finish_reason,
            prompt_tokens=len(prompt.token_ids),
            timings_ms={name: round(value, 3) for name, value in timings.items()},
        )

    def warm_up(self) -> None:
        """Compile every graph that a prompt of one image can need, so that nothing compiles while pages are read."""
        images = self._processor.images
        self._graphs.warm_up(
            patches=images.max_pixels // images.patch_size**2,
            tokens=min(self._max_length, images.max_pixels // images.pixels_per_token + TEXT_TOKENS),
        )

    # The cache

    def get_cache_stats(self) -> dict[str, int | str]:
        """Hits, misses, hit rate, memory, evictions and items. This release keeps nothing between requests: no hit."""
        return self._stats.as_dict(memory_bytes=self._slot_bytes(self._attention) if self._kv is not None else 0, items=0)

    def reset_cache_stats(self) -> None:
        """Count from zero."""
        self._stats = CacheStats()

    def clear_cache(self) -> None:
        """Forget every cached entry. The preallocated slot stays; between requests it holds nothing to forget."""

    def update_cache_config(self, config: CacheConfig) -> None:
        """Use other settings from now on; slots are allocated or freed as they say.

        Raises:
            SetupError: the slot does not fit the new budget, or flash attention is demanded and not supported. The old
                settings stay.
        """
        attention = self._choose_attention(config)
        self._check_budget(config, attention)
        switched = config.enable_kv_cache != self._cache_config.enable_kv_cache
        other = attention.implementation != self._attention.implementation
        self._cache_config, self._attention = config, attention
        if other:
            self._attentions = self._new_attentions()
        if switched or other:
            self._kv = self._new_slots()
            self._graphs.attach(self._attentions, self._kv)

    def get_model_info(self) -> dict[str, Any]:
        """What runs, where and how; ``compilations`` stays put once the graphs in use are warm."""
        return {
            "model_name": self._folder.name,
            "device": str(self._device),
            "kv_cache_enabled": self._cache_config.enable_kv_cache,
            "flash_attention_enabled": self._attention.implementation == "flash",
            "flash_attention_support": self._attention.flash_supported,
            "flash_attention_reason": self._attention.reason,
            "attn_implementation": self._attention.implementation,
            "dtype": "float32",
            "max_length": self._max_length,
            "max_pixels": self._processor.images.max_pixels,
            "compilations": self._graphs.compilations,
            "compile_seconds": round(self._graphs.compile_seconds, 3),
        }

    def _choose_attention(self, config: CacheConfig) -> AttentionChoice:
        dims = (self.config.head_dim, self.config.vision.head_dim)
        return choose_attention(self._device, self._asked_attention, config, dims)

    def _slot_bytes(self, attention: AttentionChoice) -> int:
        item_bytes = kv_item_bytes(self._device, attention.implementation)
        return KVSlots.bytes_needed(self.config, 1, self._max_length, item_bytes)

    def _check_budget(self, config: CacheConfig, attention: AttentionChoice) -> None:
        needed = self._slot_bytes(attention) / 2**20
        if config.enable_kv_cache and needed > config.max_cache_size_mb:
            raise SetupError(
                f"one KV slot of {self._max_length} tokens needs {needed:.1f} MB, max_cache_size_mb is "
                f"{config.max_cache_size_mb:g}: give at least {needed:.1f}, or lower max_length"
            )

    def _new_attentions(self) -> Attentions:
        return attentions_for(self._device, self._attention.implementation, self.config)

    def _new_slots(self) -> KVSlots | None:
        if not self._cache_config.enable_kv_cache:
            return None
        return KVSlots(self.config, 1, self._max_length, self._attentions.text)


def _checked_folder(name: str | Path) -> Path:
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.suffix == ".npz":
        raise SetupError(f"model {folder}: merged .npz files are not read by this release: give a Hugging Face folder")
    kind = "is a file" if folder.exists() else "does not exist (nothing is downloaded)"
    raise SetupError(f"model {folder} {kind}: give a Qwen2-VL folder with config.json and safetensors")


def _longest_answer(folder: Path, asked: int | None) -> int:
    """Tokens as asked, as ``generation_config.json`` says, or 1024."""
    path = folder / "generation_config.json"
    if asked is None and path.exists():
        asked = read_json(path).get("max_new_tokens")
    limit = DEFAULT_MAX_NEW_TOKENS if asked is None else asked
    if not isinstance(limit, int) or limit < 1:
        raise SetupError(f"max_new_tokens is {limit!r}: give 1 or more")
    return limit


def _slot_length(
    config: Qwen2VLConfig, images: ImageProcessor, asked: int | None, max_new_tokens: int, max_pixels: int | None
) -> int:
    """Tokens of the KV slot: as asked, or the power of two that holds one image, a question and an answer."""
    longest = config.max_position_embeddings
    if asked is not None:
        if not MIN_TOKENS <= asked <= MAX_LENGTH:
            raise SetupError(f"max_length is {asked}: give {MIN_TOKENS} to {MAX_LENGTH}")
        return asked
    wanted = (max_pixels or images.max_pixels) // images.pixels_per_token + TEXT_TOKENS + max_new_tokens
    if max_pixels is None:
        wanted = min(wanted, max(LONGEST_BY_DEFAULT, TEXT_TOKENS + 2 * max_new_tokens))
    return min(longest, 1 << max(0, wanted - 1).bit_length())


def _limited(images: ImageProcessor, max_length: int, min_pixels: int | None, max_pixels: int | None) -> ImageProcessor:
    """The checkpoint's image limits, or the user's; by default one image fills at most the slot less a question."""
    room = max(1, max_length - TEXT_TOKENS) * images.pixels_per_token
    high = min(images.max_pixels, room) if max_pixels is None else max_pixels
    low = min(images.min_pixels, high) if min_pixels is None else min_pixels
    if not images.pixels_per_token <= low <= high:
        raise SetupError(
            f"min_pixels {low} and max_pixels {high} do not fit: give {images.pixels_per_token} <= min_pixels <= max_pixels"
        )
    return images.model_copy(update={"min_pixels": low, "max_pixels": high})
