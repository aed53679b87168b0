"""Estimates of the resources that a request needs."""

from dataclasses import dataclass

import psutil

from mindnlp_ocr.backends.select import Backends
from mindnlp_ocr.cache.slots import KVSlots
from mindnlp_ocr.config import ModelConfig
from mindnlp_ocr.engine.buckets import bucket_for
from mindnlp_ocr.engine.generate import Generation
from mindnlp_ocr.engine.graphs import MAX_PATCHES, MIN_PATCHES, MIN_TOKENS
from mindnlp_ocr.weights.names import VISION_MLP


@dataclass(frozen=True)
class Forecast:
    """The resources that a request needs if nothing of it is cached.

    Attributes:
        prompt_tokens: tokens of the prompt, including those of its images.
        patches: patches of its largest image.
        max_tokens: tokens of the prompt and the longest possible answer.
        kv_bytes: final size of its keys and values, which are in a slot that is already allocated.
        activation_bytes: estimated memory that the larger of the vision and the prefill graph allocates besides the weights.
        available_bytes: free memory at present.
    """

    prompt_tokens: int
    patches: int
    max_tokens: int
    kv_bytes: int
    activation_bytes: int
    available_bytes: int

    @property
    def fits(self) -> bool:
        return self.activation_bytes <= self.available_bytes


def forecast(generation: Generation, backends: Backends, item_bytes: int) -> Forecast:
    """Estimate the resources of a request that has not started; ``item_bytes`` is the size of an element of its slot."""
    config: ModelConfig = generation.config
    merge = config.vision.spatial_merge_size**2
    patches = max((image.tokens * merge for image in generation.key.images), default=0)
    tokens = len(generation.key)
    longest = min(generation.max_length, tokens + generation.max_new_tokens)
    return Forecast(
        prompt_tokens=tokens,
        patches=patches,
        max_tokens=longest,
        kv_bytes=KVSlots.bytes_needed(config, 1, longest, item_bytes),
        activation_bytes=activation_bytes(config, patches, tokens, generation.max_length, backends),
        available_bytes=psutil.virtual_memory().available,
    )


def activation_bytes(config: ModelConfig, patches: int, tokens: int, max_length: int, backends: Backends) -> int:
    """Estimate the memory that the larger of the vision and the prefill graph allocates besides the weights.

    Args:
        patches: patches of the largest image.
        tokens: tokens of the prompt.
        max_length: length of a slot in tokens.
    """
    vision = _vision_bytes(config, patches, backends) if patches else 0
    return max(vision, _prefill_bytes(config, tokens, max_length, backends))


def _vision_bytes(config: ModelConfig, patches: int, backends: Backends) -> int:
    """Bytes of patches on host and device, and of a block: x, its norm, q/k/v three times (sliced, rotated), tables, MLP."""
    vision = config.vision
    bucket = bucket_for(patches, MIN_PATCHES, MAX_PATCHES)
    widths = 2 * vision.patch_dim + 14 * vision.embed_dim + len(VISION_MLP[vision.mlp][0]) * vision.mlp_dim
    return 4 * bucket * widths + backends.vision.score_bytes(bucket)


def _prefill_bytes(config: ModelConfig, tokens: int, max_length: int, backends: Backends) -> int:
    """Bytes of image rows on host and device, and of a layer: x, its norm, q/k/v, the attention output and the MLP."""
    bucket = bucket_for(tokens, MIN_TOKENS, max_length)
    qkv = (2 * config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
    return 4 * bucket * (7 * config.hidden_size + qkv + config.intermediate_size) + backends.text.score_bytes(bucket)
