"""The eager operations, which define the others, against float64 NumPy: in graph mode and in PyNative."""

from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor
from numpy.typing import NDArray

from mindnlp_ocr.ops import activation, attention, layout, linear, norm, rotary

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
    return rotary.rotate(x, rotary.per_head(cos, heads, 1), rotary.per_head(sin, heads, 1))


def _rotate_heads_first(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    heads = x.shape[0]
    return rotary.rotate(x, rotary.per_head(cos, heads, 0), rotary.per_head(sin, heads, 0))


@modes
def test_rotation_turns_pairs_half_a_head_apart(compiled: bool) -> None:
    x, angle = rng(6, 3, 8), rng(6, 4)
    pairs = x[..., :4] + 1j * x[..., 4:]
    turned = pairs * np.exp(1j * angle)[:, None]
    expected = np.concatenate([turned.real, turned.imag], -1)
    np.testing.assert_allclose(run(_rotate, compiled, x, np.cos(angle), np.sin(angle)), expected, atol=1e-5)
    answer = run(_rotate_heads_first, compiled, x.transpose(1, 0, 2), np.cos(angle), np.sin(angle))
    np.testing.assert_allclose(answer, expected.transpose(1, 0, 2), atol=1e-5)


def _first_two_heads(x: Tensor) -> Tensor:
    return layout.heads_first(x, 2, 1)[0]


def _last_head(x: Tensor) -> Tensor:
    return layout.heads_first(x, 2, 1)[1]


@modes
def test_heads_first_and_tokens_first_are_exact_transposes(compiled: bool) -> None:
    x = rng(5, 3, 4).astype(np.float32)
    np.testing.assert_array_equal(run(_first_two_heads, compiled, x), x.transpose(1, 0, 2)[:2])
    np.testing.assert_array_equal(run(_last_head, compiled, x), x.transpose(1, 0, 2)[2:])
    np.testing.assert_array_equal(run(layout.tokens_first, compiled, x), x.transpose(1, 0, 2))


def _vision(q: Tensor, k: Tensor, v: Tensor, live: Tensor) -> Tensor:
    return attention.vision_attention(q, k, v, attention.vision_mask(q.shape[0], q.shape[1], live))


@modes
@pytest.mark.parametrize("live", [1, 5, 9])
def test_vision_attention_sees_live_patches_only(compiled: bool, live: int) -> None:
    q, k, v = rng(2, 9, 20), rng(2, 9, 20) + 1, rng(2, 9, 20) - 1
    scores = softmax(q @ k[:, :live].transpose(0, 2, 1) / 20**0.5)
    answer = run(_vision, compiled, q, k, v, np.array([live], np.int32))
    np.testing.assert_allclose(answer[:, :live], (scores @ v[:, :live])[:, :live], atol=1e-5)


def _prefill(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attention.prefill_attention(q, k, v, attention.prefill_mask(q.shape[0], q.shape[1]))


@modes
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (4, 1)])
def test_prefill_attention_is_causal_and_groups_share_their_keys(compiled: bool, heads: int, kv_heads: int) -> None:
    q, k, v = rng(heads, 7, 16), rng(kv_heads, 7, 16), rng(kv_heads, 7, 16)
    shared = np.arange(heads) // (heads // kv_heads)
    scores = q @ k[shared].transpose(0, 2, 1) / 4
    scores[:, np.triu(np.ones((7, 7), bool), 1)] = -np.inf
    np.testing.assert_allclose(run(_prefill, compiled, q, k, v), softmax(scores) @ v[shared], atol=1e-5)


def _decode(q: Tensor, keys: Tensor, values: Tensor, live: Tensor) -> Tensor:
    return attention.decode_attention(q, keys, values, attention.decode_mask(q.shape[1], keys.shape, live))


@modes
def test_decode_attention_reads_each_slot_up_to_its_own_length(compiled: bool) -> None:
    q, keys, values = rng(3, 6, 16), rng(3, 2, 10, 16), rng(3, 2, 10, 16)
    live = np.array([1, 4, 10], np.int32)
    answer = run(_decode, compiled, q, keys, values, live)
    for slot, length in enumerate(live):
        for head in range(6):
            k, v = keys[slot, head // 3, :length], values[slot, head // 3, :length]
            np.testing.assert_allclose(answer[slot, head], softmax(k @ q[slot, head] / 4) @ v, atol=1e-5)


def test_rows_are_written_in_place_and_no_other_is_touched() -> None:
    rows = Parameter(Tensor(np.zeros((6, 4), np.float32)), name="rows")
    new = np.arange(8, dtype=np.float32).reshape(2, 4)
    attention.write_rows(rows, Tensor([4, 1], ms.int32), Tensor(new))
    expected = np.zeros((6, 4), np.float32)
    expected[[4, 1]] = new
    np.testing.assert_array_equal(rows.asnumpy(), expected)
