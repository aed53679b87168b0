"""Tests of the fused decoder layer against float64 NumPy, and that its results do not depend on batching."""

from itertools import pairwise
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore import Tensor
from numpy.typing import NDArray

from mindnlp_ocr.bench.reference import attend_slots
from mindnlp_ocr.ops import native
from mindnlp_ocr.ops.operators import CpuOperators
from tests.ops.arrays import DTYPES, Array, as_held, back, integers, parameter, random, tensor

pytestmark = pytest.mark.skipif(not native.available()[0], reason=native.available()[1])

HIDDEN, HEADS, KV_HEADS, DIM, INNER = 48, 6, 2, 8, 80
SLOTS, LENGTH = 5, 160
QKV = (HEADS + 2 * KV_HEADS) * DIM
EPS = 1e-6
STEPS = {"float32": 1e-5, "float16": 2**-10, "bfloat16": 2**-7}  # of a number in the dtype, in proportion to it

NORMS = np.random.default_rng(1).uniform(0.5, 1.5, (2, HIDDEN))
QKV_WEIGHT, QKV_BIAS = random(QKV, HIDDEN) / 7, random(QKV) / 7
OUT_WEIGHT, DOWN_WEIGHT = random(HIDDEN, HEADS * DIM, seed=1) / 7, random(HIDDEN, INNER, seed=2) / 9
GATE_WEIGHT, UP_WEIGHT = random(INNER, HIDDEN, seed=3) / 7, random(INNER, HIDDEN, seed=4) / 7


def slots_of(dtype: str, length: int = LENGTH) -> tuple[Array, Array]:
    """Keys and values of all slots."""
    keys, values = (as_held(random(SLOTS, KV_HEADS, length, DIM, seed=i), dtype) for i in (5, 6))
    return keys, values


def new_tokens(segments: int, tokens: int, seed: int = 0) -> tuple[Array, Array]:
    """x [segments, tokens, hidden], and the angles [segments, tokens, head_dim / 2] by which heads turn."""
    return random(segments, tokens, HIDDEN, seed=seed), 3 * random(segments, tokens, DIM // 2, seed=seed)


def arguments(
    x: Array, angles: Array, keys: Array, values: Array, slots: Any, live: Any, count: Any, dtype: str
) -> dict[str, Tensor]:
    """The operator's inputs, in its order."""
    pack, rows = CpuOperators().pack, x.shape[0] * x.shape[1]
    return {
        "x": tensor(x.reshape(rows, HIDDEN)),
        "cos": tensor(np.cos(angles).reshape(rows, -1)),
        "sin": tensor(np.sin(angles).reshape(rows, -1)),
        "slots": integers(*slots),
        "live": integers(*live),
        "count": integers(*count),
        "eps": Tensor(np.array([EPS], np.float32)),
        "norm1": tensor(NORMS[0]),
        "qkv": tensor(pack(QKV_WEIGHT)),
        "qkv bias": tensor(QKV_BIAS),
        "out": tensor(pack(OUT_WEIGHT)),
        "norm2": tensor(NORMS[1]),
        "gate/up": tensor(CpuOperators().pack_gate(GATE_WEIGHT, UP_WEIGHT)),
        "down": tensor(pack(DOWN_WEIGHT)),
        "keys": parameter(keys, "keys", dtype),
        "values": parameter(values, "values", dtype),
    }


def run(
    x: Array, angles: Array, keys: Array, values: Array, slots: Any, live: Any, count: Any,
    dtype: str = "float32", compiled: bool = False,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """x after the layer, keys and values after it."""
    layer, inputs = native.decoder_layer(), arguments(x, angles, keys, values, slots, live, count, dtype)
    y = (ms.jit(layer) if compiled else layer)(*inputs.values())
    return back(y).reshape(x.shape), back(inputs["keys"]), back(inputs["values"])


def rms(x: Array, weight: Array) -> Array:
    answer: Array = x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * weight
    return answer


def reference(
    x: Array, angles: Array, keys: Array, values: Array, slots: list[int], live: list[int], count: list[int], dtype: str
) -> tuple[Array, Array, Array]:
    """The layer in float64, with keys and values in their dtype; padding is zero."""
    segments, tokens, _ = x.shape
    qkv = (rms(x, NORMS[0]) @ QKV_WEIGHT.T + QKV_BIAS).reshape(segments, tokens, -1, DIM)
    turned, v = qkv[:, :, : HEADS + KV_HEADS], qkv[:, :, HEADS + KV_HEADS :]
    pairs = (turned[..., : DIM // 2] + 1j * turned[..., DIM // 2 :]) * np.exp(1j * angles)[:, :, None]
    turned = np.concatenate([pairs.real, pairs.imag], -1)
    q, k = turned[:, :, :HEADS], turned[:, :, HEADS:]
    attended, new_keys, new_values = attend_slots(
        q, as_held(k, dtype), as_held(v, dtype), keys[slots], values[slots], live, count
    )
    keys, values = keys.copy(), values.copy()
    for i, slot in enumerate(slots):
        if count[i]:
            keys[slot], values[slot] = new_keys[i], new_values[i]
    x = x + attended.reshape(segments, tokens, -1) @ OUT_WEIGHT.T
    normed = rms(x, NORMS[1])
    gate, up = normed @ GATE_WEIGHT.T, normed @ UP_WEIGHT.T
    y = x + (gate / (1 + np.exp(-gate)) * up) @ DOWN_WEIGHT.T
    for segment, new in enumerate(count):
        y[segment, new:] = 0
    return y, keys, values


# Against float64


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("tokens", "slots", "live", "count"),
    [
        (1, [0], [0], [1]),
        (1, [2], [LENGTH - 1], [1]),
        (1, [3, 0, 4, 1], [3, 0, 159, 70], [1, 1, 1, 1]),
        (1, [4, 1, 0, 0], [100, 7, 0, 9], [1, 1, 0, 0]),  # two rest
        (40, [1], [0], [40]),  # a prompt
        (40, [1], [0], [33]),  # in a bucket
        (40, [3], [120], [40]),  # the rest of one, to the last row
        (40, [3], [77], [2]),
        (20, [3, 1, 0], [60, 0, 5], [20, 17, 0]),
        (3, [0, 1], [4, 4], [0, 0]),
    ],
)
def test_output_and_slots_match_float64(
    instruction_set: str, tokens: int, slots: list[int], live: list[int], count: list[int], dtype: str
) -> None:
    inputs = *new_tokens(len(slots), tokens), *slots_of(dtype), slots, live, count, dtype
    y, *held = run(*inputs)
    expected, *rows = reference(*inputs)
    np.testing.assert_allclose(y, expected, atol=DTYPES[dtype][1])
    touched = np.zeros((SLOTS, KV_HEADS, LENGTH, DIM), bool)
    for slot, first, new in zip(slots, live, count, strict=True):
        touched[slot, :, first : first + new] = True
    for ours, theirs, before in zip(held, rows, slots_of(dtype), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=STEPS[dtype], atol=1e-5)
        np.testing.assert_array_equal(ours[~touched], before[~touched])


# The same bits


def bits(y: Array, keys: Array, values: Array, slot: int, rows: slice) -> list[bytes]:
    return [y.tobytes(), keys[slot][:, rows].tobytes(), values[slot][:, rows].tobytes()]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_tokens_bits_depend_neither_on_splits_nor_slots_nor_neighbours_nor_threads(data: st.DataObject) -> None:
    native.use_instruction_set(data.draw(st.sampled_from(native.instruction_sets())))
    dtype = data.draw(st.sampled_from(sorted(DTYPES)))
    tokens = data.draw(st.integers(1, LENGTH))
    x, angles = new_tokens(1, tokens)
    native.use_threads(1)
    try:
        whole = run(x, angles, *slots_of(dtype), [0], [0], [tokens], dtype)
        slot, held = data.draw(st.integers(0, SLOTS - 1)), slots_of(dtype)
        for first, last in pairwise(sorted({0, tokens, *data.draw(st.lists(st.integers(0, tokens), max_size=4))})):
            new, padding = last - first, data.draw(st.sampled_from([0, 0, 1, 13]))
            before = data.draw(st.integers(0, 2))
            after = 0 if padding else data.draw(st.integers(0, 2))  # only the last that brings tokens may bring few
            segments, bucket = before + 1 + after, new + padding
            others = data.draw(st.permutations([s for s in range(SLOTS) if s != slot]))
            if bucket > LENGTH:
                before, after, segments, bucket = 0, 0, 1, new
            slots = [*others[:before], slot, *others[before : before + after], slot]  # the last one rests
            live = [0] * before + [first] + [LENGTH - bucket] * after + [0]
            count = [bucket] * before + [new] + [bucket] * after + [0]
            rows, turns = new_tokens(segments + 1, bucket, seed=9)
            rows[before, new:], turns[before, new:] = np.nan, np.nan
            rows[before, :new], turns[before, :new] = x[0, first:last], angles[0, first:last]
            native.use_threads(data.draw(st.integers(1, 3)))
            y, *held = run(rows, turns, *held, slots, live, count, dtype)
            piece = slice(first, last)
            assert bits(y[before, :new], *held, slot, piece) == bits(whole[0][0, piece], whole[1], whole[2], 0, piece)
    finally:
        native.use_threads(0)
        native.use_instruction_set(native.instruction_sets()[-1])


@pytest.mark.parametrize("counts", [[5, 1, 17], [1, 1, 1], [3, 0, 9], [0, 40]], ids=str)
def test_prompts_packed_behind_one_another_have_the_bits_of_each_alone(instruction_set: str, counts: list[int]) -> None:
    padding = 4
    x, angles = new_tokens(1, sum(counts) + padding)
    slots, live = [4, 0, 2][: len(counts)], [30, 0, 7][: len(counts)]
    y, *held = run(x, angles, *slots_of("float32"), slots, live, counts)
    first = 0
    for slot, before, count in zip(slots, live, counts, strict=True):
        if count == 0:
            continue
        piece = slice(first, first + count)
        alone, *own = run(x[:, piece], angles[:, piece], *slots_of("float32"), [slot], [before], [count])
        assert alone.tobytes() == y[:, piece].tobytes()
        assert all(a[slot].tobytes() == b[slot].tobytes() for a, b in zip(own, held, strict=True))
        first += count
    assert not y[:, first:].any()


@pytest.mark.parametrize("starts", [[512], [511, 512, 513], [96, 300, 610]], ids=str)
def test_a_long_prompt_in_pieces_has_the_bits_of_the_whole(instruction_set: str, starts: list[int]) -> None:
    tokens = 620  # more than one chunk of keys, and many blocks of queries
    x, angles = new_tokens(1, tokens)
    held = list(slots_of("float32", length=640))
    whole = run(x, angles, *held, [1], [0], [tokens])
    for first, last in pairwise([0, *starts, tokens]):
        y, *held = run(x[:, first:last], angles[:, first:last], *held, [1], [first], [last - first])
        assert y.tobytes() == whole[0][:, first:last].tobytes()
    assert all(a.tobytes() == b.tobytes() for a, b in zip(held, whole[1:], strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_graph_mode_gives_pynatives_bits(dtype: str) -> None:
    inputs = *new_tokens(2, 30), *slots_of(dtype), [3, 1], [100, 0], [30, 20], dtype
    for ours, theirs in zip(run(*inputs, compiled=True), run(*inputs), strict=True):
        assert ours.tobytes() == theirs.tobytes()


def test_nan_and_infinity_in_dead_rows_and_in_padding_do_not_leak(instruction_set: str) -> None:
    slots, live, count = [2, 4, 0], [4, 30, 0], [10, 7, 0]
    (x, angles), (keys, values) = new_tokens(3, 10), slots_of("float32")
    y, *held = run(x, angles, keys, values, slots, live, count)
    for poison in (np.nan, np.inf, -np.inf):
        x[1, 7:], x[2], angles[1, 7:], angles[2] = poison, poison, np.nan, np.nan
        keys[2, :, 14:], values[2, :, 14:], keys[4, :, 37:], values[4, :, 37:] = poison, poison, poison, poison
        again, *rows = run(x, angles, keys, values, slots, live, count)
        assert again.tobytes() == y.tobytes()
        for slot, end in ((2, 14), (4, 37)):
            assert all(a[slot, :, :end].tobytes() == b[slot, :, :end].tobytes() for a, b in zip(rows, held, strict=True))


# What is refused

WRONG_COUNT, WRONG_RANK, WRONG_DTYPE, WRONG_SHAPE, FULL_SLOT, WRONG_LENGTHS = range(1, 7)


def inputs_of_two() -> dict[str, Tensor]:
    return arguments(*new_tokens(2, 3), *slots_of("float32"), [0, 3], [4, 5], [3, 3], "float32")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"live": integers(4, LENGTH - 2)}, FULL_SLOT),
        ({"live": integers(4, -1)}, WRONG_LENGTHS),
        ({"slots": integers(SLOTS, 0)}, WRONG_LENGTHS),
        ({"slots": integers(-1, 0)}, WRONG_LENGTHS),
        ({"slots": integers(3, 3)}, WRONG_LENGTHS),
        ({"count": integers(4, 3)}, WRONG_LENGTHS),  # more tokens than rows
        ({"count": integers(3, 4)}, WRONG_LENGTHS),
        ({"count": integers(3, -1)}, WRONG_LENGTHS),
        ({"count": integers(3)}, WRONG_SHAPE),
        ({"slots": integers(0, 3, 1, 2)}, WRONG_SHAPE),  # 6 rows are no 4 segments
        ({"norm2": tensor(random(HIDDEN + 1))}, WRONG_SHAPE),
        ({"down": tensor(random(2, INNER - 20, 32))}, WRONG_SHAPE),  # fewer panels than those of gate and up
        ({"gate/up": tensor(random(3, HIDDEN, 32))}, WRONG_SHAPE),
        ({"cos": tensor(random(6, DIM))}, WRONG_SHAPE),
        ({"values": tensor(random(SLOTS, KV_HEADS, LENGTH - 1, DIM))}, WRONG_SHAPE),
        ({"eps": tensor(random(2))}, WRONG_SHAPE),
        ({"qkv bias": tensor(random(1, QKV))}, WRONG_RANK),
        ({"keys": tensor(random(SLOTS * KV_HEADS * LENGTH, DIM))}, WRONG_RANK),
        ({"live": tensor(np.array([4.0, 5.0]))}, WRONG_DTYPE),
        ({"x": tensor(random(6, HIDDEN), "float16")}, WRONG_DTYPE),
        ({"values": tensor(random(SLOTS, KV_HEADS, LENGTH, DIM), "float16")}, WRONG_DTYPE),
    ],
    ids=lambda x: ", ".join(x) if isinstance(x, dict) else "",
)
def test_inputs_that_do_not_fit_raise_and_write_nothing(changes: dict[str, Tensor], code: int) -> None:
    inputs = {**inputs_of_two(), **changes}
    before: list[NDArray[Any]] = [back(inputs[name]) for name in ("keys", "values")]
    with pytest.raises(RuntimeError) as error:
        native.decoder_layer()(*inputs.values()).asnumpy()
    assert native.explain(error.value) == f"DecoderLayer: {native.FAULTS[code]}"
    for name, array in zip(("keys", "values"), before, strict=True):
        np.testing.assert_array_equal(back(inputs[name]), array)


def test_a_missing_input_raises() -> None:
    with pytest.raises(RuntimeError) as error:
        native.decoder_layer()(*list(inputs_of_two().values())[:-1]).asnumpy()
    assert native.explain(error.value) == f"DecoderLayer: {native.FAULTS[WRONG_COUNT]}"
