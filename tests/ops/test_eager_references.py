"""Tests of the eager operations, which define all others, against float64 NumPy in graph mode and PyNative mode."""

from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn
from numpy.typing import NDArray

from mindnlp_ocr.backends import eager
from mindnlp_ocr.bench.reference import attend_slots
from mindnlp_ocr.ops import activation, layout, linear, norm, rotary

Array = NDArray[np.float64]
modes = pytest.mark.parametrize("compiled", [True, False], ids=["graph", "pynative"])


def run(function: Callable[..., Any], compiled: bool, *arrays: Any) -> Array:
    """The function's answer to float32 (or as they are, integer) tensors of the arrays."""
    tensors = [Tensor(a.astype(np.float32) if a.dtype == np.float64 else a) for a in map(np.asarray, arrays)]
    answer: Array = (ms.jit(function) if compiled else function)(*tensors).asnumpy().astype(np.float64)
    return answer


def rng(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape)


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@modes
@pytest.mark.parametrize("rows", [1, 3, 70])
def test_a_product_with_a_packed_weight_is_x_times_its_transpose(compiled: bool, rows: int) -> None:
    x, weight, bias = rng(rows, 48), rng(20, 48), rng(20)
    packed = linear.pack(weight.astype(np.float32)).astype(np.float64)
    np.testing.assert_allclose(run(linear.linear, compiled, x, packed), x @ weight.T, atol=1e-5)
    np.testing.assert_allclose(run(linear.linear_bias, compiled, x, packed, bias), x @ weight.T + bias, atol=1e-5)


@modes
def test_the_tied_head_reads_the_embedding_table_the_other_way(compiled: bool) -> None:
    x, table = rng(2, 24), rng(1, 50, 24)
    np.testing.assert_allclose(run(linear.tied_head, compiled, x, table), x @ table[0].T, atol=1e-5)
    ids = np.array([49, 0, 7], np.int32)
    np.testing.assert_allclose(run(linear.embed, compiled, ids, table), table[0][ids], atol=1e-6)


def _rms(x: Tensor, weight: Tensor) -> Tensor:
    return norm.rms_norm(x, weight, 1e-6)


@modes
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_norms_match_float64_for_small_and_large_rows(compiled: bool, scale: float) -> None:
    x, weight, bias = rng(5, 64) * scale + scale, rng(64), rng(64)
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weight
    np.testing.assert_allclose(run(_rms, compiled, x, weight), expected, rtol=1e-5, atol=1e-5)
    centred = x - x.mean(-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * weight + bias
    np.testing.assert_allclose(run(norm.layer_norm, compiled, x, weight, bias), expected, rtol=2e-4, atol=1e-4)


@modes
def test_activations_match_float64_far_out_as_well(compiled: bool) -> None:
    x, up = np.linspace(-30, 30, 201), rng(201)
    erf = np.vectorize(__import__("math").erf)
    np.testing.assert_allclose(run(activation.quick_gelu, compiled, x), x / (1 + np.exp(-1.702 * x)), atol=1e-5)
    np.testing.assert_allclose(run(activation.gelu, compiled, x), x * 0.5 * (1 + erf(x / 2**0.5)), atol=1e-5)
    np.testing.assert_allclose(run(activation.silu_gate, compiled, x, up), x / (1 + np.exp(-x)) * up, atol=2e-5)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    heads = x.shape[1]
    return rotary.rotate(x, rotary.per_head(cos, heads), rotary.per_head(sin, heads))


@modes
def test_rotation_turns_pairs_half_a_head_apart(compiled: bool) -> None:
    x, angle = rng(6, 3, 8), rng(6, 4)
    pairs = x[..., :4] + 1j * x[..., 4:]
    turned = pairs * np.exp(1j * angle)[:, None]
    expected = np.concatenate([turned.real, turned.imag], -1)
    np.testing.assert_allclose(run(_rotate, compiled, x, np.cos(angle), np.sin(angle)), expected, atol=1e-5)


def _last_head(x: Tensor) -> Tensor:
    return layout.take_heads(x, 2, 1)


@modes
def test_heads_are_taken_and_moved_exactly(compiled: bool) -> None:
    x = rng(5, 3, 4).astype(np.float32)
    np.testing.assert_array_equal(run(layout.heads_first, compiled, x), x.transpose(1, 0, 2))
    np.testing.assert_array_equal(run(_last_head, compiled, x), x[:, 2:])
    np.testing.assert_array_equal(run(layout.tokens_first, compiled, x), x.transpose(1, 0, 2))


two_heads = eager.EagerBackend(2, 2, 20)


def _vision(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor) -> Tensor:
    return two_heads.vision(q, k, v, two_heads.vision_mask(q.shape[0], cu_seqlens))


@modes
@pytest.mark.parametrize("cu_seqlens", [[0, 1], [0, 5], [0, 9], [0, 2, 3, 7], [0, 0, 4]])
def test_vision_attention_sees_the_patches_of_its_own_image_only(compiled: bool, cu_seqlens: list[int]) -> None:
    q, k, v = rng(9, 2, 20), rng(9, 2, 20) + 1, rng(9, 2, 20) - 1
    image = np.searchsorted(cu_seqlens, np.arange(9), side="right")
    scores = np.einsum("thd,shd->hts", q, k) / 20**0.5
    scores[:, image[:, None] != image[None]] = -np.inf
    expected = np.einsum("hts,shd->thd", softmax(scores), v)
    answer = run(_vision, compiled, q, k, v, np.array(cu_seqlens, np.int32))
    np.testing.assert_allclose(answer[: cu_seqlens[-1]], expected[: cu_seqlens[-1]], atol=1e-5)
    assert np.isfinite(answer).all()


class Extend(nn.Cell):
    """One call over slots of 12 rows and 2 heads of 16, for 6 query heads."""

    def __init__(self, keys: Array, values: Array, dtype: Any = ms.float32) -> None:
        super().__init__()
        self.eager = eager.EagerBackend(6, 2, 16)
        self.shape = keys.shape
        self.keys, self.values = (
            Parameter(self.eager.slot_tensor(Tensor(x.astype(np.float32)).astype(dtype)), name=f"rows{i}")
            for i, x in enumerate((keys, values))
        )

    def construct(self, q: Tensor, k: Tensor, v: Tensor, slots: Tensor, live: Tensor, count: Tensor) -> Tensor:
        mask = self.eager.extend_mask(self.shape, q.shape[1], (slots, live, count))
        return self.eager.extend(q, k, v, self.keys, self.values, mask)


@pytest.mark.parametrize(("compiled", "dtype"), [(True, ms.float16), (False, ms.float32)], ids=["graph", "pynative"])
@pytest.mark.parametrize(
    ("tokens", "slots", "live", "count"),
    [
        (7, [0], [0], [7]),  # a prompt
        (7, [2], [0], [4]),  # in a bucket
        (7, [1], [5], [7]),  # the rest of one, to the last row
        (7, [3], [5], [2]),
        (7, [3], [10], [2]),  # its padding would not fit behind it
        (4, [2, 0, 3], [8, 0, 3], [4, 2, 1]),
        (1, [3, 0, 1, 2], [0, 11, 5, 6], [1, 1, 1, 1]),
        (1, [2, 1, 0, 0], [3, 4, 0, 0], [1, 1, 0, 0]),  # two rest
        (1, [0, 2, 0, 0], [0, 4, 0, 0], [1, 1, 0, 0]),  # on a row that another writes
        (2, [1, 1, 3], [11, 3, 12], [0, 2, 0]),
        (1, [0, 1], [5, 12], [0, 0]),
    ],
)
def test_new_tokens_are_written_to_their_slot_and_see_it_up_to_themselves(
    compiled: bool, tokens: int, slots: list[int], live: list[int], count: list[int], dtype: Any
) -> None:
    def held(x: Array) -> Array:
        answer: Array = Tensor(x.astype(np.float32)).astype(dtype).astype(ms.float32).asnumpy().astype(np.float64)
        return answer

    segments = len(slots)
    q, k, v = (held(rng(segments, tokens, heads, 16) + shift) for heads, shift in ((6, 0), (2, 1), (2, -1)))
    keys, values = held(rng(4, 2, 12, 16)), held(rng(4, 2, 12, 16) + 1)
    cell = Extend(keys, values, dtype)
    answer = run(cell, compiled, q, k, v, *(np.array(x, np.int32) for x in (slots, live, count)))
    assert np.isfinite(answer).all()
    expected, new_keys, new_values = attend_slots(q, k, v, keys[slots], values[slots], live, count)
    for segment, (slot, new) in enumerate(zip(slots, count, strict=True)):
        np.testing.assert_allclose(answer[segment, :new], expected[segment, :new], atol=1e-5)
        if new:
            keys[slot], values[slot] = new_keys[segment], new_values[segment]
    for rows, theirs in ((cell.keys, keys), (cell.values, values)):
        np.testing.assert_array_equal(rows.astype(ms.float32).asnumpy().reshape(theirs.shape), theirs)


@modes
def test_a_prompt_in_two_pieces_gives_what_the_whole_gave(compiled: bool) -> None:
    q, k, v = rng(1, 9, 6, 16), rng(1, 9, 2, 16), rng(1, 9, 2, 16)
    empty = np.zeros((2, 2, 12, 16))
    whole = run(Extend(empty, empty), compiled, q, k, v, *(np.array([x], np.int32) for x in (0, 0, 9)))
    cell = Extend(empty, empty)
    for first, last in ((0, 4), (4, 9)):
        piece, lengths = (x[:, first:last] for x in (q, k, v)), (1, first, last - first)
        answer = run(cell, compiled, *piece, *(np.array([x], np.int32) for x in lengths))
        np.testing.assert_allclose(answer, whole[:, first:last], atol=1e-5)
