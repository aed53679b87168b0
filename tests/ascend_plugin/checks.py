"""AscendAttention in graph mode over the emulated operators, against float64 NumPy.

Run by tests/ops/test_ascend.py in a process of its own: MindSpore reads MS_OP_PLUGIN_PATH when it is imported.
"""

from pathlib import Path
from typing import Any

import mindspore as ms
import ml_dtypes
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops
from numpy.typing import NDArray

from mindnlp_ocr.bench.reference import attend, attend_images, attend_prompt
from mindnlp_ocr.ops.ascend import AscendAttention, later_tokens
from tests.ascend_plugin import cells

Array = NDArray[np.float64]
# Half a step of the 16-bit answer, and what float32 sums add to it.
CLOSE = {ms.float16: {"rtol": 2**-11, "atol": 2e-6}, ms.bfloat16: {"rtol": 2**-8, "atol": 2e-6}}
STORED = {ms.float16: np.float16, ms.bfloat16: ml_dtypes.bfloat16}
dtypes = pytest.mark.parametrize("dtype", [ms.float16, ms.bfloat16], ids=["float16", "bfloat16"])


def rng(*shape: int, dtype: Any = ms.float16) -> Array:
    """Numbers that ``dtype`` holds exactly, so that only the answer is rounded."""
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(STORED[dtype]).astype(np.float64)


def tensor(array: Array) -> Tensor:
    return Tensor(array.astype(np.float32))


def parameter(array: Array, name: str, dtype: Any = ms.float16) -> Parameter:
    return Parameter(Tensor(array.astype(np.float32)).astype(dtype), name=name, requires_grad=False)


def stored(cache: Parameter) -> Array:
    held: Array = ops.cast(cache, ms.float32).asnumpy().astype(np.float64)
    return held


def run(cell: nn.Cell, *inputs: Any) -> Array:
    answer: Array = ms.jit(cell)(*(x if isinstance(x, Tensor) else tensor(x) for x in inputs)).asnumpy()
    assert answer.dtype == np.float32
    return answer.astype(np.float64)


@dtypes
@pytest.mark.parametrize(
    ("heads", "head_dim", "images", "patches"),
    [
        (16, 80, [24, 40], 96),
        (16, 80, [64], 64),  # no padding
        (4, 64, [1], 8),
        (2, 128, [5, 1, 9, 30], 48),
        (12, 64, [3, 13], 16),
    ],
)
def test_each_patch_sees_its_own_image_alone(heads: int, head_dim: int, images: list[int], patches: int, dtype: Any) -> None:
    q, k, v = (rng(patches, heads, head_dim, dtype=dtype) + i for i in range(3))
    q, k, v = (x.astype(STORED[dtype]).astype(np.float64) for x in (q, k, v))
    ends = np.cumsum([0, *images])
    answer = run(cells.Vision(AscendAttention(heads, heads, head_dim, dtype)), q, k, v, Tensor(ends, ms.int32))
    assert answer.shape == q.shape
    assert np.isfinite(answer).all()
    np.testing.assert_allclose(answer[: ends[-1]], attend_images(q, k, v, ends.tolist()), **CLOSE[dtype])


@dtypes
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "tokens"),
    [(12, 2, 128, 33), (4, 4, 64, 16), (28, 4, 128, 8), (4, 1, 80, 1), (1, 1, 16, 2100)],
)
def test_a_prompt_is_causal_and_its_keys_and_values_are_stored(
    heads: int, kv_heads: int, head_dim: int, tokens: int, dtype: Any
) -> None:
    q, k, v = (rng(tokens, n, head_dim, dtype=dtype) for n in (heads, kv_heads, kv_heads))
    v = v[::-1].copy()
    length = tokens + 7
    before = rng(1, kv_heads, length, head_dim, dtype=dtype)
    keys, values = parameter(before, "keys", dtype), parameter(before, "values", dtype)
    cell = cells.Prefill(AscendAttention(heads, kv_heads, head_dim, dtype), keys, values)
    answer = run(cell, q, k, v, Tensor([tokens], ms.int32))
    np.testing.assert_allclose(answer, attend_prompt(q, k, v, tokens), **CLOSE[dtype])
    for cache, new in ((keys, k), (values, v)):
        np.testing.assert_array_equal(stored(cache)[0, :, :tokens], new.transpose(1, 0, 2))
        np.testing.assert_array_equal(stored(cache)[0, :, tokens:], before[0, :, tokens:])


def test_padding_of_a_prompt_changes_no_bit_of_what_is_before_it() -> None:
    attention = AscendAttention(6, 2, 64)
    q, k, v = rng(9, 6, 64), rng(9, 2, 64), rng(9, 2, 64)
    alone = run(cells.Prefill(attention), q, k, v, Tensor([9], ms.int32))
    padded = (np.concatenate([x, rng(7, *x.shape[1:]) + 3]) for x in (q, k, v))
    np.testing.assert_array_equal(run(cells.Prefill(attention), *padded, Tensor([9], ms.int32))[:9], alone)


@dtypes
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "live"),
    [
        (12, 2, 128, [0]),
        (12, 2, 128, [11]),
        (12, 2, 128, [23]),  # the last free row
        (4, 4, 64, [7]),
        (28, 4, 128, [1]),
        (4, 2, 80, [0, 23, 5]),
    ],
)
def test_a_token_is_stored_behind_the_live_rows_of_its_slot_and_sees_those_and_itself(
    heads: int, kv_heads: int, head_dim: int, live: list[int], dtype: Any
) -> None:
    slots, length = len(live), 24
    q, k, v = (rng(slots, n, head_dim, dtype=dtype) for n in (heads, kv_heads, kv_heads))
    v = -v
    before = rng(slots, kv_heads, length, head_dim, dtype=dtype)
    keys, values = parameter(before, "keys", dtype), parameter(-before, "values", dtype)
    cell = cells.Decode(AscendAttention(heads, kv_heads, head_dim, dtype), keys, values)
    answer = run(cell, q, k, v, Tensor(live, ms.int32))
    after = before.copy()
    for slot, row in enumerate(live):
        after[slot, :, row] = k[slot]
    np.testing.assert_array_equal(stored(keys), after)
    np.testing.assert_array_equal(stored(values), -after)  # v is -k, both from the same seed
    for slot, row in enumerate(live):
        seen = after[slot, :, : row + 1].transpose(1, 0, 2)
        expected = attend(q[slot][None], seen, -seen, np.ones((1, row + 1), bool))[0]
        np.testing.assert_allclose(answer[slot], expected, **CLOSE[dtype])


def test_tokens_decoded_one_by_one_give_what_the_whole_prompt_gave() -> None:
    heads, kv_heads, head_dim, tokens = 12, 2, 128, 12
    attention = AscendAttention(heads, kv_heads, head_dim)
    q, k, v = (rng(tokens, n, head_dim) for n in (heads, kv_heads, kv_heads))
    whole = run(cells.Prefill(attention), q, k, v, Tensor([tokens], ms.int32))
    keys, values = (parameter(np.full((1, kv_heads, 16, head_dim), 9.0), name) for name in ("keys", "values"))
    step = ms.jit(cells.Decode(attention, keys, values))
    for token in range(tokens):
        row = (tensor(x[token : token + 1]) for x in (q, k, v))
        answer = step(*row, Tensor([token], ms.int32)).asnumpy()
        np.testing.assert_allclose(answer[0], whole[token], **CLOSE[ms.float16])


def test_an_exported_decode_step_gives_the_same_answers_and_fills_its_own_slots(tmp_path: Path) -> None:
    attention, shape = AscendAttention(4, 2, 64), (1, 2, 8, 64)
    inputs = [tensor(rng(1, n, 64)) for n in (4, 2, 2)]
    keys, values = (parameter(np.zeros(shape), name) for name in ("keys", "values"))
    cell = cells.Decode(attention, keys, values)
    ms.export(cell, *inputs, Tensor([0], ms.int32), file_name=str(tmp_path / "decode"), file_format="MINDIR")
    loaded = nn.GraphCell(ms.load(str(tmp_path / "decode.mindir")))
    for live in range(3):
        expected = run(cell, *inputs, Tensor([live], ms.int32))
        np.testing.assert_array_equal(loaded(*inputs, Tensor([live], ms.int32)).asnumpy(), expected)


@pytest.mark.parametrize("width", [48, 1536])
def test_rms_norm_matches(width: int) -> None:
    x, weight = rng(5, width), rng(width)
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weight
    np.testing.assert_allclose(run(cells.RmsNorm(), x, weight), expected, rtol=1e-5, atol=1e-6)


# What the emulation itself must keep to, since everything above rests on it.


def test_the_last_of_fewer_queries_sees_every_key() -> None:
    q, k, v = rng(2, 3, 64), rng(2, 5, 32), rng(2, 5, 32)
    halves = [Tensor(x.astype(np.float16)) for x in (q, k, v)]
    answer = ms.jit(cells.Causal(4, 2, later_tokens()))(*halves).asnumpy().astype(np.float64).reshape(2, 3, 4, 16)
    q, k, v = q.reshape(2, 3, 4, 16), k.reshape(2, 5, 2, 16), v.reshape(2, 5, 2, 16)
    for batch in range(2):
        expected = attend(q[batch], k[batch], v[batch], np.tri(3, k.shape[1], 2) > 0)
        np.testing.assert_allclose(answer[batch], expected, **CLOSE[ms.float16])


def test_a_write_of_several_rows_a_slot_starts_at_each_slots_own_row() -> None:
    before, new = rng(2, 3, 8, 16), rng(2, 3, 4, 16)
    cell = cells.ReadAfterWrite(parameter(before, "cache"))
    answer = ms.jit(cell)(Tensor([1, 4], ms.int32), Tensor(new.astype(np.float16))).asnumpy()
    before[0, :, 1:5], before[1, :, 4:8] = new
    np.testing.assert_array_equal(answer, before)


def test_what_the_documentation_forbids_is_refused() -> None:
    x = tensor(rng(6, 2, 16))
    half = Tensor(rng(1, 6, 32).astype(np.float16))
    attention = AscendAttention(2, 2, 16)
    slots = [parameter(rng(6, 2, 8, 16), name) for name in ("keys", "values")]
    everything = Tensor(np.ones((6, 1, 1, 8), np.bool_))

    def lengths(*ends: int) -> Tensor:
        return Tensor(ends, ms.int64)

    for message, cell, inputs in (
        ("not 1 above the diagonal", cells.Causal(2, 2, Tensor(~later_tokens().asnumpy())), (half, half, half)),
        ("last cumulative length", cells.WithMask(attention, "vision"), (x, x, x, lengths(4), lengths(7))),
        ("keys of length 0", cells.WithMask(attention, "vision"), (x, x, x, lengths(3, 3, 6), lengths(3, 3, 7))),
        ("sees no key", cells.WithMask(attention, "decode", *slots), (x, x, x, everything, Tensor([0] * 6, ms.int32))),
    ):
        with pytest.raises(RuntimeError, match=message):
            ms.jit(cell)(*inputs).asnumpy()
