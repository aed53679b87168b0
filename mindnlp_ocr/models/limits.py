"""Limits of slots, answers and images, from the user's settings, the checkpoint's, and defaults."""

from pathlib import Path
from typing import NamedTuple

from mindnlp_ocr.config import ModelConfig, read_json
from mindnlp_ocr.engine.graphs import MIN_TOKENS
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.processing.images import ImageProcessor

LONGEST_BY_DEFAULT = 4096
MAX_LENGTH = 1 << 18  # an image takes fewer positions than tokens, so max_position_embeddings does not bound a slot
TEXT_TOKENS = 256  # room for the question in addition to one image
DEFAULT_MAX_NEW_TOKENS = 1024


class Limits(NamedTuple):
    """Limits requested by the user; None: use the checkpoint's value or a default."""

    max_length: int | None = None
    max_new_tokens: int | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None


class Settled(NamedTuple):
    """The limits in effect."""

    max_length: int
    max_new_tokens: int
    images: ImageProcessor


def settle(folder: Path, config: ModelConfig, asked: Limits) -> Settled:
    """Determine the limits for a checkpoint with its files in ``folder``.

    Raises:
        SetupError: the requested limits are invalid or contradict each other.
    """
    images = ImageProcessor.from_folder(folder)
    max_new_tokens = longest_answer(folder, asked.max_new_tokens)
    max_length = slot_length(config, images, asked.max_length, max_new_tokens, asked.max_pixels)
    return Settled(max_length, max_new_tokens, limited(images, max_length, asked.min_pixels, asked.max_pixels))


def longest_answer(folder: Path, asked: int | None) -> int:
    """Return the maximum number of new tokens: as requested, as in ``generation_config.json``, or 1024."""
    path = folder / "generation_config.json"
    if asked is None and path.exists():
        asked = read_json(path).get("max_new_tokens")
    limit = DEFAULT_MAX_NEW_TOKENS if asked is None else asked
    if not isinstance(limit, int) or limit < 1:
        raise SetupError(f"max_new_tokens is {limit!r}: use 1 or more", code="not_positive")
    return limit


def slot_length(
    config: ModelConfig, images: ImageProcessor, asked: int | None, max_new_tokens: int, max_pixels: int | None
) -> int:
    """Return the length of a KV slot in tokens: as requested, or the next power of two that fits one image, a question and
    an answer."""
    longest = config.max_position_embeddings
    if asked is not None:
        if not MIN_TOKENS <= asked <= MAX_LENGTH:
            raise SetupError(f"max_length is {asked}: use {MIN_TOKENS} to {MAX_LENGTH}", code="max_length_out_of_range")
        return asked
    wanted = (max_pixels or images.max_pixels) // images.pixels_per_token + TEXT_TOKENS + max_new_tokens
    if max_pixels is None:
        wanted = min(wanted, max(LONGEST_BY_DEFAULT, TEXT_TOKENS + 2 * max_new_tokens))
    return min(longest, 1 << max(0, wanted - 1).bit_length())


def limited(images: ImageProcessor, max_length: int, min_pixels: int | None, max_pixels: int | None) -> ImageProcessor:
    """Return an image processor with the user's limits, or the checkpoint's. By default, the largest image leaves room for a
    question in the slot."""
    room = max(1, max_length - TEXT_TOKENS) * images.pixels_per_token
    high = min(images.max_pixels, room) if max_pixels is None else max_pixels
    low = min(images.min_pixels, high) if min_pixels is None else min_pixels
    if not images.pixels_per_token <= low <= high:
        raise SetupError(
            f"min_pixels {low} and max_pixels {high} do not fit: use {images.pixels_per_token} <= min_pixels <= max_pixels",
            code="pixel_limits_invalid",
        )
    return images.model_copy(update={"min_pixels": low, "max_pixels": high})
