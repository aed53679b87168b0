"""Tiled attention with an online softmax (Dao 2023, arXiv:2307.08691), forward only, as Triton kernels.

All three uses share one loop over tiles of keys (`_attend`):

- ``prefill``: causal grouped-query attention of a prompt in a static bucket;
- ``vision``: rows attend to all rows of their own segment and to no others;
- ``decode``: a few new tokens per slot attend to a static key-value cache.

Inputs and outputs are float16, or float32 in Triton's interpreter; scores, softmax and sums are float32. A dead row (after
the last segment, or not yet written) may have any content, because it is never read.
"""

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl

# Rows x columns of a tile. A 910B has 192 KiB of UB, 512 KiB of L1 and 128 KiB of L0C, of which 64 x 128 takes at most 176,
# 192 and 64 KiB; prefill with 128 x 128 does not fit at head size 128. The rows of a decode step are the few query heads of
# a group, so 16 rows, the side of a block of a cube core, waste the least. `lower.py` prints the figures.
TILES = {"prefill": (64, 128), "vision": (64, 128), "decode": (16, 128)}
HEAD_DIMS = (64, 80, 128)


@triton.jit
def _attend(
    q, keys, values, key_stride, value_stride, first, stop, last, scale,
    DIM: tl.constexpr, DIMS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Attend a tile of queries to the keys first..stop-1, of which a row sees those up to ``last``: [ROWS, DIMS] float32."""
    dims = tl.arange(0, DIMS)
    # The running maximum starts finite and a hidden score is -inf: their difference is -inf, never NaN.
    peak = tl.full([ROWS], -1e30, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    sums = tl.zeros([ROWS, DIMS], tl.float32)
    for start in range(first, stop, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        held = (columns < stop)[:, None]
        if DIMS > DIM:
            held = held & (dims < DIM)[None, :]
        k = tl.load(keys + columns[:, None] * key_stride + dims[None, :], mask=held, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(columns[None, :] <= last[:, None], scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        shrink = tl.exp(peak - higher)
        total = total * shrink + tl.sum(weights, 1)
        # A hidden row of values must be loaded as 0: its weight is 0, but 0 * NaN is NaN.
        v = tl.load(values + columns[:, None] * value_stride + dims[None, :], mask=held, other=0.0)
        sums = sums * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        peak = higher
    # The largest score contributes exp(0) = 1, so the total of a row that saw a key is at least 1.
    return sums / tl.maximum(total, 1.0)[:, None]


@triton.jit
def segments_kernel(
    q, k, v, out, bounds, segments, tokens,
    q_token, q_head, k_token, k_head, v_token, v_head, out_token, out_head, scale,
    GROUP: tl.constexpr, CAUSAL: tl.constexpr,
    DIM: tl.constexpr, DIMS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Prefill and vision: program (i, h) computes the rows from i*ROWS of query head h, one segment after another."""
    top = tl.program_id(0) * ROWS
    head = tl.program_id(1)
    rows = top + tl.arange(0, ROWS)
    dims = tl.arange(0, DIMS)
    queries = q + head * q_head + rows[:, None] * q_token + dims[None, :]
    answers = out + head * out_head + rows[:, None] * out_token + dims[None, :]
    keys = k + head // GROUP * k_head
    values = v + head // GROUP * v_head
    for segment in range(segments):
        first = tl.load(bounds + segment)
        stop = tl.minimum(tl.load(bounds + segment + 1), tokens)  # a wrong bound must not read beyond the bucket
        if (first < top + ROWS) & (stop > top):
            mine = ((rows >= first) & (rows < stop))[:, None]
            if DIMS > DIM:
                mine = mine & (dims < DIM)[None, :]
            tile = tl.load(queries, mask=mine, other=0.0)
            if CAUSAL:
                answer = _attend(tile, keys, values, k_token, v_token, first, tl.minimum(stop, top + ROWS), rows, scale,
                                 DIM, DIMS, ROWS, COLUMNS)  # fmt: skip
            else:
                answer = _attend(tile, keys, values, k_token, v_token, first, stop, rows * 0 + (stop - 1), scale,
                                 DIM, DIMS, ROWS, COLUMNS)  # fmt: skip
            tl.store(answers, answer.to(out.dtype.element_ty), mask=mine)
    dead = ((rows >= tl.load(bounds + segments)) & (rows < tokens))[:, None]
    if DIMS > DIM:
        dead = dead & (dims < DIM)[None, :]
    tl.store(answers, tl.zeros([ROWS, DIMS], out.dtype.element_ty), mask=dead)


@triton.jit
def decode_kernel(
    q, k, v, out, live, max_length,
    q_slot, q_token, q_head, k_slot, k_head, k_row, v_slot, v_head, v_row, out_slot, out_token, out_head, scale,
    GROUP: tl.constexpr, NEW: tl.constexpr,
    DIM: tl.constexpr, DIMS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Decode: program (s, h, i) computes slot s, key head h; a tile's rows are the group's query heads times new tokens."""
    slot = tl.program_id(0)
    head = tl.program_id(1)
    rows = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    dims = tl.arange(0, DIMS)
    token = rows % NEW
    query_head = head * GROUP + rows // NEW
    mine = (rows < GROUP * NEW)[:, None]
    if DIMS > DIM:
        mine = mine & (dims < DIM)[None, :]
    queries = q + slot * q_slot + (token * q_token + query_head * q_head)[:, None] + dims[None, :]
    answers = out + slot * out_slot + (token * out_token + query_head * out_head)[:, None] + dims[None, :]
    before = tl.load(live + slot)
    stop = tl.minimum(before + NEW, max_length)
    answer = _attend(
        tl.load(queries, mask=mine, other=0.0), k + slot * k_slot + head * k_head, v + slot * v_slot + head * v_head,
        k_row, v_row, 0, stop, before + token, scale, DIM, DIMS, ROWS, COLUMNS,
    )  # fmt: skip
    tl.store(answers, answer.to(out.dtype.element_ty), mask=mine)


# The launchers accept the same objects as Triton: those with data_ptr(), dtype, shape and stride(), such as MindSpore
# tensors. They do not read device memory, so lengths must be checked when they are created, with `segment_bounds` and
# `live_lengths`.


def prefill(q: Any, k: Any, v: Any, out: Any, bounds: Any, tile: tuple[int, int] = TILES["prefill"]) -> None:
    """Write the causal attention of prompts to ``out``. Rows after the last bound become 0.

    q, out: [tokens, heads, head_dim]; k, v: [tokens, kv_heads, head_dim]; float16, or float32 in the interpreter.
    bounds: int32 [prompts + 1]; prompt i has the rows bounds[i]..bounds[i + 1] - 1. For one prompt in a bucket: [0, live].
    """
    _segments(q, k, v, out, bounds, tile, causal=True)


def vision(q: Any, k: Any, v: Any, out: Any, bounds: Any, tile: tuple[int, int] = TILES["vision"]) -> None:
    """Write the attention within segments to ``out``. Rows after the last bound become 0. Arguments as for `prefill`."""
    _segments(q, k, v, out, bounds, tile, causal=False)


def decode(q: Any, k: Any, v: Any, out: Any, live: Any, tile: tuple[int, int] = TILES["decode"]) -> None:
    """Write the attention of new tokens over the rows of their own slot to ``out``. New token i sees rows 0..live + i.

    q, out: [slots, new, heads, head_dim]; k, v: [slots, kv_heads, max_length, head_dim], with the new rows already written.
    live: int32 [slots], number of rows before the new tokens.
    """
    slots, new, heads, dim = _shape("q", q, 4)
    _, kv_heads, max_length, _ = _shape("k", k, 4)
    _check(q, k, v, out, (slots, kv_heads, max_length, dim), heads, kv_heads)
    _check_integers("live", live, (slots,), "one length per slot")
    if not 1 <= new <= max_length:
        raise ValueError(f"{new} new tokens do not fit into a slot of {max_length} rows: use 1 to {max_length}")
    group = heads // kv_heads
    decode_kernel[(slots, kv_heads, triton.cdiv(group * new, tile[0]))](
        q, k, v, out, live, max_length,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3], dim**-0.5,
        GROUP=group, NEW=new, DIM=dim, DIMS=_block(dim), ROWS=tile[0], COLUMNS=tile[1],
    )  # fmt: skip


def segment_bounds(lengths: Sequence[int], tokens: int) -> list[int]:
    """Return the bounds of segments of these lengths in a bucket of ``tokens`` rows, for an int32 tensor."""
    bounds = [0]
    for length in lengths:
        if length < 0:
            raise ValueError(f"segment length {length} is negative: use 0 or more")
        bounds.append(bounds[-1] + length)
    if not lengths or bounds[-1] > tokens:
        raise ValueError(f"{len(lengths)} segments of {bounds[-1]} rows in a bucket of {tokens}: pass 1 or more that fit")
    return bounds


def live_lengths(lengths: Sequence[int], new: int, max_length: int) -> list[int]:
    """Check that each length leaves room for ``new`` tokens in a slot of ``max_length`` rows. Returns the lengths, for an
    int32 tensor."""
    for slot, length in enumerate(lengths):
        if not 0 <= length <= max_length - new:
            raise ValueError(
                f"slot {slot} has a length of {length}, which does not leave {new} of {max_length} rows: "
                f"use 0 to {max_length - new}"
            )
    return list(lengths)


def _segments(q: Any, k: Any, v: Any, out: Any, bounds: Any, tile: tuple[int, int], causal: bool) -> None:
    tokens, heads, dim = _shape("q", q, 3)
    kv_heads = _shape("k", k, 3)[1]
    _check(q, k, v, out, (tokens, kv_heads, dim), heads, kv_heads)
    segments = _shape("bounds", bounds, 1)[0] - 1
    _check_integers("bounds", bounds, (max(segments, 1) + 1,), "one more bound than segments")
    segments_kernel[(triton.cdiv(tokens, tile[0]), heads)](
        q, k, v, out, bounds, segments, tokens,
        *q.stride()[:2], *k.stride()[:2], *v.stride()[:2], *out.stride()[:2], dim**-0.5,
        GROUP=heads // kv_heads, CAUSAL=causal, DIM=dim, DIMS=_block(dim), ROWS=tile[0], COLUMNS=tile[1],
    )  # fmt: skip


def _block(dim: int) -> int:
    """Return the computed columns for a head size: stock Triton supports powers of two, triton-ascend multiples of 16."""
    return dim if "ascend" in triton.backends.backends else int(triton.next_power_of_2(dim))


def _shape(name: str, tensor: Any, dims: int) -> tuple[int, ...]:
    shape = tuple(tensor.shape)
    if len(shape) != dims:
        raise ValueError(f"{name} has shape {list(shape)}: use {dims} dimensions")
    return shape


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).rsplit(".", 1)[-1].lower()  # NumPy: float16, MindSpore: Float16, torch: torch.float16


def _check(q: Any, k: Any, v: Any, out: Any, kv_shape: tuple[int, ...], heads: int, kv_heads: int) -> None:
    dtypes = ["float16"] if isinstance(decode_kernel, triton.JITFunction) else ["float16", "float32"]
    for name, tensor, shape in (
        ("q", q, tuple(q.shape)),
        ("k", k, kv_shape),
        ("v", v, kv_shape),
        ("out", out, tuple(q.shape)),
    ):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {list(tensor.shape)}: q {list(q.shape)} requires {list(shape)}")
        if 0 in shape:
            raise ValueError(f"{name} has shape {list(shape)}: every size must be 1 or more")
        if _dtype(tensor) not in dtypes or _dtype(tensor) != _dtype(q):
            raise ValueError(f"{name} is {_dtype(tensor)} and q is {_dtype(q)}: cast all of them to {' or '.join(dtypes)}")
        strides = tuple(tensor.stride())
        if strides[-1] != 1:
            raise ValueError(f"{name} has a last stride of {strides[-1]}: make each row of head_dim numbers contiguous")
        span = sum((size - 1) * abs(stride) for size, stride in zip(shape, strides, strict=True))
        if span >= 2**31:
            raise ValueError(f"{name} spans {span} elements, but offsets are 32-bit: split it into fewer slots or tokens")
    if q.shape[-1] not in HEAD_DIMS:
        raise ValueError(f"head_dim {q.shape[-1]} has no tested tile: use one of {', '.join(map(str, HEAD_DIMS))}")
    if heads % kv_heads:
        raise ValueError(f"{heads} query heads do not share {kv_heads} key heads evenly: use a multiple of {kv_heads}")


def _check_integers(name: str, tensor: Any, shape: tuple[int, ...], meaning: str) -> None:
    if tuple(tensor.shape) != shape or _dtype(tensor) != "int32":
        raise ValueError(f"{name} is {_dtype(tensor)} {list(tensor.shape)}: pass int32 {list(shape)}, {meaning}")
