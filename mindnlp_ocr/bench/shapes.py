"""Random weights with the shapes of a checkpoint, and the number of multiply-adds of its networks."""

import math
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from mindnlp_ocr.architectures import VisionConfig
from mindnlp_ocr.config import ModelConfig
from mindnlp_ocr.modeling.windows import windows_of
from mindnlp_ocr.weights.names import VISION_MLP, expected_shapes


class RandomWeights(Mapping[str, NDArray[np.float32]]):
    """Weights that are created on access, so that a second copy of the model is never in memory."""

    def __init__(self, config: ModelConfig) -> None:
        self._shapes = expected_shapes(config)
        self._noise = np.random.default_rng(0).standard_normal(1 << 22, dtype=np.float32)

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        shape = self._shapes[name]
        noise = np.resize(self._noise, math.prod(shape)).reshape(shape)
        if len(shape) == 1:
            return 1 + 0.1 * noise if name.endswith("weight") else 0.02 * noise
        return noise * np.float32(1 / math.sqrt(math.prod(shape[1:])))

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def vision_flops(config: VisionConfig, grid: tuple[int, int, int]) -> int:
    """Return the multiply-adds of the vision tower for an image with the given patches in time, height and width."""
    patches, width, merged = math.prod(grid), config.embed_dim, config.embed_dim * config.spatial_merge_size**2
    layers = len(VISION_MLP[config.mlp][0]) + 1
    block = patches * (width * 3 * width + width * width + layers * width * config.mlp_dim)
    pairs = sum(_pairs(config, grid, config.windowed(i)) for i in range(config.depth))
    merger = (merged * merged + merged * config.hidden_size) / config.spatial_merge_size**2
    return int(2 * (patches * (config.patch_dim * width + merger) + config.depth * block + 2 * width * pairs))


def _pairs(config: VisionConfig, grid: tuple[int, int, int], windowed: bool) -> int:
    """Return the number of pairs of patches that attend to each other."""
    if not windowed:
        return math.prod(grid) ** 2
    sizes = windows_of(grid, config.spatial_merge_size, config.window).sizes * config.spatial_merge_size**2
    return int((sizes**2).sum())


def prefill_flops(config: ModelConfig, tokens: int) -> int:
    """Return the multiply-adds of all layers for a prompt, and of the logits of its last token."""
    hidden, kv_width = config.hidden_size, config.num_key_value_heads * config.head_dim
    layer = hidden * (2 * hidden + 2 * kv_width) + 3 * hidden * config.intermediate_size + tokens * hidden
    return 2 * (tokens * config.num_hidden_layers * layer + hidden * config.vocab_size)
