"""Weights for a Qwen2-VL or Qwen2.5-VL of any shape, from names and a seed: NumPy only, so that all draw the same."""

import math
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np


def tensor(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The float32 array that `name` has under `seed`, at a scale that keeps activations near one."""
    noise = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape, dtype=np.float32)
    if name == "pixel_values":
        return noise
    if name.endswith("bias"):
        return noise * np.float32(0.02)
    if len(shape) == 1:  # the only vectors that are not biases are the scales of norms
        return np.float32(1) + noise * np.float32(0.1)
    if name.endswith("embed_tokens.weight"):
        # Small beside what the layers add: a tied head would otherwise always find the token that it was given.
        return noise * np.float32(0.02)
    return noise * np.float32(1 / math.sqrt(math.prod(shape[1:])))  # the fan-in, of a convolution too


def shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes as the published checkpoints have them; `config` is their flat config.json."""
    vision = config["vision_config"]
    newer, patch = config["model_type"] == "qwen2_5_vl", vision["patch_size"]
    names = ("hidden_size", "out_hidden_size") if newer else ("embed_dim", "hidden_size")
    width, feature = (vision[name] for name in names)
    yield "visual.patch_embed.proj.weight", (width, vision["in_chans"], vision["temporal_patch_size"], patch, patch)
    for layer in range(vision["depth"]):
        block = f"visual.blocks.{layer}."
        for norm in ("norm1", "norm2"):
            yield f"{block}{norm}.weight", (width,)
            if not newer:
                yield f"{block}{norm}.bias", (width,)
        inner = vision["intermediate_size"] if newer else int(width * vision["mlp_ratio"])
        mlp = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj") if newer else ("mlp.fc1", "mlp.fc2")
        for part, rows, columns in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            *((name, inner, width) for name in mlp[:-1]),
            (mlp[-1], width, inner),
        ):
            yield f"{block}{part}.weight", (rows, columns)
            yield f"{block}{part}.bias", (rows,)
    merged = width * vision["spatial_merge_size"] ** 2
    yield "visual.merger.ln_q.weight", (width,)
    if not newer:
        yield "visual.merger.ln_q.bias", (width,)
    for part, rows in (("mlp.0", merged), ("mlp.2", feature)):
        yield f"visual.merger.{part}.weight", (rows, merged)
        yield f"visual.merger.{part}.bias", (rows,)

    hidden, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads, key_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head = hidden // heads
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        yield f"{block}input_layernorm.weight", (hidden,)
        yield f"{block}post_attention_layernorm.weight", (hidden,)
        for part, rows in (("q_proj", heads * head), ("k_proj", key_heads * head), ("v_proj", key_heads * head)):
            yield f"{block}self_attn.{part}.weight", (rows, hidden)
            yield f"{block}self_attn.{part}.bias", (rows,)
        yield f"{block}self_attn.o_proj.weight", (hidden, heads * head)
        yield f"{block}mlp.gate_proj.weight", (inner, hidden)
        yield f"{block}mlp.up_proj.weight", (inner, hidden)
        yield f"{block}mlp.down_proj.weight", (hidden, inner)
    yield "model.norm.weight", (hidden,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (vocabulary, hidden)


def state_dict(config: dict[str, Any], seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Every weight of the model, drawn one at a time, so that a caller may drop each before the next."""
    for name, shape in shapes(config):
        yield name, tensor(name, shape, seed)
