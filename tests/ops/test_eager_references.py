"""The eager operations, which define the others, against float64 NumPy: in graph mode and in PyNative."""

from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn
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


two_heads = attention.EagerAttention(2, 2, 20)


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


class Prefill(nn.Cell):
    def __init__(self, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.eager = attention.EagerAttention(heads, kv_heads, 16)

    def construct(self, q: Tensor, k: Tensor, v: Tensor, live: Tensor) -> Tensor:
        return self.eager.prefill(q, k, v, self.eager.prefill_mask(q.shape[0], live))


@modes
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (4, 1)])
def test_prefill_attention_is_causal_and_groups_share_their_keys(compiled: bool, heads: int, kv_heads: int) -> None:
    q, k, v = rng(7, heads, 16), rng(7, kv_heads, 16), rng(7, kv_heads, 16)
    shared = np.arange(heads) // (heads // kv_heads)
    scores = np.einsum("thd,shd->hts", q, k[:, shared]) / 4
    scores[:, np.triu(np.ones((7, 7), bool), 1)] = -np.inf
    expected = np.einsum("hts,shd->thd", softmax(scores), v[:, shared])
    np.testing.assert_allclose(
        run(Prefill(heads, kv_heads), compiled, q, k, v, np.array([7], np.int32)), expected, atol=1e-5
    )


class Decode(nn.Cell):
    """One call over slots of 10 rows and 2 heads of 16."""

    def __init__(self, keys: Array, values: Array) -> None:
        super().__init__()
        self.eager = attention.EagerAttention(6, 2, 16)
        self.shape = keys.shape
        self.keys, self.values = (
            Parameter(Tensor(x.reshape(-1, 16).astype(np.float32)), name=f"rows{i}") for i, x in enumerate((keys, values))
        )

    def construct(self, q: Tensor, k: Tensor, v: Tensor, live: Tensor, count: Tensor) -> Tensor:
        mask = self.eager.decode_mask(self.shape, q.shape[1], live, count)
        return self.eager.decode(q, k, v, self.keys, self.values, mask)


@modes
@pytest.mark.parametrize("tokens", [1, 4])
def test_decode_writes_new_tokens_and_reads_each_slot_up_to_its_own_length(compiled: bool, tokens: int) -> None:
    live, count = [0, 3, 10 - tokens, 10, 7], [tokens, tokens, tokens, 0, 1]
    q, k, v = (rng(5, tokens, heads, 16) + shift for heads, shift in ((6, 0), (2, 1), (2, -1)))
    keys, values = rng(5, 2, 10, 16), rng(5, 2, 10, 16) + 1
    cell = Decode(keys, values)
    answer = run(cell, compiled, q, k, v, np.array(live, np.int32), np.array(count, np.int32))
    for slot, (held, new) in enumerate(zip(live, count, strict=True)):
        for rows, fresh in ((keys, k), (values, v)):
            rows[slot, :, held : held + new] = fresh[slot, :new].transpose(1, 0, 2)
        for token in range(new):
            for head in range(6):
                a, b = (rows[slot, head // 3, : held + token + 1] for rows in (keys, values))
                expected = softmax(a @ q[slot, token, head] / 4) @ b
                np.testing.assert_allclose(answer[slot, token, head], expected, atol=1e-5)
    np.testing.assert_array_equal(cell.keys.asnumpy(), keys.reshape(-1, 16).astype(np.float32))
    np.testing.assert_array_equal(cell.values.asnumpy(), values.reshape(-1, 16).astype(np.float32))


class WritePrompt(nn.Cell):
    def __init__(self, rows: Parameter) -> None:
        super().__init__()
        self.eager, self.rows = attention.EagerAttention(2, 2, 4), rows

    def construct(self, k: Tensor) -> Tensor:
        self.eager.write_prompt(self.rows, self.rows, k, k, self.eager.prompt_rows((1, 2, 3, 4), k.shape[0]))
        return k


@modes
def test_a_prompt_is_written_in_place_and_no_other_row_is_touched(compiled: bool) -> None:
    rows = Parameter(Tensor(np.zeros((6, 4), np.float32)), name="rows")
    new = np.arange(16, dtype=np.float32).reshape(2, 2, 4)  # tokens, heads
    run(WritePrompt(rows), compiled, new)
    expected = np.zeros((2, 3, 4), np.float32)
    expected[:, :2] = new.transpose(1, 0, 2)
    np.testing.assert_array_equal(rows.asnumpy(), expected.reshape(6, 4))
