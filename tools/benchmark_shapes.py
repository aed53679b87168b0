#!/usr/bin/env python3
"""Run all layers of Qwen2-VL-2B with random weights: time and memory of vision, prefill and decode, in float32.

uv run tools/benchmark_shapes.py            # needs 10 GB of memory and about two minutes
"""

import argparse
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mindnlp_ocr.cache.config import CacheConfig
from mindnlp_ocr.cache.slots import KVSlots
from mindnlp_ocr.engine.graphs import Graphs, NewToken
from mindnlp_ocr.modeling.rope import mrope_positions
from mindnlp_ocr.models.config import Qwen2VLConfig
from mindnlp_ocr.ops.device import Device
from mindnlp_ocr.ops.select import attentions_for, choose_attention, operators_for
from mindnlp_ocr.processing.images import Patches
from mindnlp_ocr.weights.names import expected_shapes

# The published config.json of Qwen2-VL-2B-Instruct, as far as the network reads it.
CPU = Device("CPU")
QWEN2_VL_2B = {
    "model_type": "qwen2_vl",
    "vocab_size": 151936,
    "hidden_size": 1536,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "intermediate_size": 8960,
    "max_position_embeddings": 32768,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "tie_word_embeddings": True,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "eos_token_id": 151645,
    "vision_config": {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16, "mlp_ratio": 4},
}


class RandomWeights(Mapping[str, NDArray[np.float32]]):
    """Weights drawn when asked for, so that no second copy of the model is ever held."""

    def __init__(self, config: Qwen2VLConfig) -> None:
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


def memory() -> str:
    """Peak resident memory so far."""
    row = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    return f"{int(row.split()[1]) / 2**20:.1f} GiB peak"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=32, help="patches along each side of the image (default: 32)")
    parser.add_argument("--tokens", type=int, default=8, help="tokens to decode (default: 8)")
    parser.add_argument("--max-length", type=int, default=1024, help="length of the KV slot (default: 1024)")
    parser.add_argument("--attn", choices=("auto", "eager", "flash"), default="auto", help="attention (default: auto)")
    arguments = parser.parse_args()
    config = Qwen2VLConfig.from_dict(QWEN2_VL_2B)
    weights = RandomWeights(config)
    choice = choose_attention(CPU, arguments.attn, CacheConfig(), (config.head_dim, config.vision.head_dim))
    attentions = attentions_for(CPU, choice.implementation, config)
    kv = KVSlots(config, 1, arguments.max_length, attentions.text)
    print(f"attention: {choice.implementation}; {choice.reason}")
    start = time.perf_counter()
    graphs = Graphs(config, weights, arguments.max_length, operators_for(CPU), attentions, kv)
    print(f"built in {time.perf_counter() - start:.1f} s, {memory()}", flush=True)

    grid = (1, arguments.side, arguments.side)
    pixels = np.random.default_rng(1).standard_normal((math.prod(grid), config.vision.patch_dim), dtype=np.float32)
    image = [config.image_token_id] * (math.prod(grid) // config.vision.spatial_merge_size**2)
    ids = np.asarray([1, 2, 3, *image, 4, 5, 6], np.int32)
    positions = mrope_positions(ids, [grid], config.image_token_id, config.vision.spatial_merge_size)
    for run in ("first", "second"):
        start = time.perf_counter()
        features = graphs.vision([Patches(pixels, grid)])
        print(f"vision, {len(pixels)} patches, {run} run: {time.perf_counter() - start:.2f} s, {memory()}", flush=True)
    for run in ("first", "second"):
        start = time.perf_counter()
        step = graphs.prefill(ids, features, positions.ids)
        print(f"prefill, {len(ids)} tokens, {run} run: {time.perf_counter() - start:.2f} s, {memory()}", flush=True)
    times = []
    for live in range(len(ids), len(ids) + arguments.tokens):
        start = time.perf_counter()
        step = graphs.decode([NewToken(step.token_id, live + positions.delta, 0, live)])[0]
        times.append(time.perf_counter() - start)
    print(f"decode: median {np.median(times[1:]):.3f} s a token, the first {times[0]:.2f} s, {memory()}")


if __name__ == "__main__":
    main()
