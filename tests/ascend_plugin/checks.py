"""AscendBackend in graph mode over the emulated operators, against float64 NumPy.

Run by tests/backends/test_ascend.py in a process of its own: MindSpore reads MS_OP_PLUGIN_PATH when it is imported.
"""

from pathlib import Path
from typing import Any

import mindspore as ms
import ml_dtypes
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops
from numpy.typing import NDArray

from mindnlp_ocr.backends.ascend import AscendBackend
from mindnlp_ocr.bench.reference import attend, attend_images, attend_slots
from tests.ascend_plugin import cells

Array = NDArray[np.float64]
# Half a step of the 16-bit answer, and what float32 sums add to it.
CLOSE = {ms.float16: {"rtol": 2**-11, "atol": 2e-6}, ms.bfloat16: {"rtol": 2**-8, "atol": 2e-6}}
STORED = {ms.float16: np.float16, ms.bfloat16: ml_dtypes.bfloat16}


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


@pytest.mark.parametrize(
    ("heads", "head_dim", "images", "patches", "dtype"),
    [
        (16, 80, [24, 40], 96, ms.float16),
        (16, 80, [24, 40], 96, ms.bfloat16),
        (16, 80, [64], 64, ms.bfloat16),  # no padding
        (4, 64, [1], 8, ms.float16),
        (2, 128, [5, 1, 9, 30], 48, ms.float16),
        (4, 80, [24, 8, 0, 0, 0], 40, ms.bfloat16),  # windows, of which the last are empty
        (4, 80, [32, 32, 0], 64, ms.float16),
    ],
)
def test_each_patch_sees_its_own_image_alone(heads: int, head_dim: int, images: list[int], patches: int, dtype: Any) -> None:
    q, k, v = (rng(patches, heads, head_dim, dtype=dtype) + i for i in range(3))
    q, k, v = (x.astype(STORED[dtype]).astype(np.float64) for x in (q, k, v))
    ends = np.cumsum([0, *images])
    answer = run(cells.Vision(AscendBackend(heads, heads, head_dim, dtype)), q, k, v, Tensor(ends, ms.int32))
    assert answer.shape == q.shape
    assert np.isfinite(answer).all()
    np.testing.assert_allclose(answer[: ends[-1]], attend_images(q, k, v, ends.tolist()), **CLOSE[dtype])


def integers(*values: int) -> Tensor:
    return Tensor(np.array(values, np.int32))


class Slots:
    """Four slots of random numbers (or as many as asked for), and a graph for each shape of new tokens over them."""

    def __init__(self, attention: AscendBackend, slots: int = 4, length: int = 48) -> None:
        self.dtype = attention.dtype
        self.kv = (slots, attention.kv_heads, length, attention.head_dim)
        self.heads = attention.heads
        self.keys, self.values = rng(*self.kv, dtype=self.dtype), -rng(*self.kv, dtype=self.dtype)[::-1]
        self.held = [parameter(x, name, self.dtype) for name, x in (("keys", self.keys), ("values", self.values))]
        self.graph = ms.jit(cells.Extend(attention, *self.held))

    def new(self, segments: int, tokens: int) -> tuple[Array, Array, Array]:
        """q, k and v."""
        q, k, v = (rng(segments, tokens, n, self.kv[3], dtype=self.dtype) for n in (self.heads, self.kv[1], self.kv[1]))
        return q, k, v[:, ::-1]

    def check(self, slots: list[int], live: list[int], count: list[int], tokens: int) -> None:
        """Run it; the answer and the slots are those of float64, and no other row is touched."""
        q, k, v = self.new(len(slots), tokens)
        answer = self.graph(tensor(q), tensor(k), tensor(v), integers(*slots), integers(*live), integers(*count)).asnumpy()
        assert answer.dtype == np.float32
        assert np.isfinite(answer).all()
        expected, keys, values = attend_slots(q, k, v, self.keys[slots], self.values[slots], live, count)
        for segment, new in enumerate(count):
            np.testing.assert_allclose(answer[segment, :new], expected[segment, :new], **CLOSE[self.dtype])
        self.keys[slots], self.values[slots] = keys, values
        np.testing.assert_array_equal(stored(self.held[0]), self.keys)
        np.testing.assert_array_equal(stored(self.held[1]), self.values)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "dtype"),
    [(12, 2, 128, ms.float16), (12, 2, 128, ms.bfloat16), (4, 4, 64, ms.float16), (4, 1, 80, ms.bfloat16)],
)
def test_a_prompt_or_the_rest_of_one_goes_to_any_slot_behind_any_number_of_rows(
    heads: int, kv_heads: int, head_dim: int, dtype: Any
) -> None:
    slots = Slots(AscendBackend(heads, kv_heads, head_dim, dtype))
    for slot, live, count in (
        (0, 0, 16),  # a prompt
        (2, 0, 9),  # in a bucket
        (2, 9, 16),  # the rest of one
        (3, 20, 1),
        (1, 32, 16),  # to the last row
        (1, 40, 3),  # the padding would not fit behind it
        (3, 47, 1),
    ):
        slots.check([slot], [live], [count], tokens=16)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "dtype"),
    [(12, 2, 128, ms.bfloat16), (28, 4, 128, ms.float16), (28, 4, 128, ms.bfloat16), (4, 2, 80, ms.float16)],
)
def test_a_token_in_every_slot_sees_its_own_and_slots_that_rest_keep_what_they_hold(
    heads: int, kv_heads: int, head_dim: int, dtype: Any
) -> None:
    slots, everywhere = Slots(AscendBackend(heads, kv_heads, head_dim, dtype)), [0, 1, 2, 3]
    slots.check(everywhere, [0, 11, 47, 5], [1, 1, 1, 1], tokens=1)
    slots.check(everywhere, [1, 12, 48, 6], [1, 1, 0, 1], tokens=1)  # one is full
    slots.check(everywhere, [0, 13, 0, 0], [0, 1, 0, 0], tokens=1)  # nobody says how full those are that rest
    slots.check(everywhere, [0, 0, 0, 0], [0, 0, 0, 0], tokens=1)


def test_a_single_slot_takes_prompts_and_single_tokens() -> None:
    slots = Slots(AscendBackend(6, 2, 64), slots=1)
    slots.check([0], [0], [7], tokens=8)
    slots.check([0], [7], [1], tokens=1)
    slots.check([0], [47], [1], tokens=1)


def test_a_prompt_of_more_than_2048_tokens_is_causal() -> None:
    Slots(AscendBackend(1, 1, 16), slots=2, length=2112).check([1], [10], [2100], tokens=2100)


def test_a_prompt_gives_the_same_bits_in_a_bucket_and_in_two_pieces() -> None:
    slots = Slots(AscendBackend(6, 2, 64))
    q, k, v = slots.new(1, 24)

    def extend(slot: int, first: int, last: int, padding: int = 0) -> Array:
        pieces = (np.concatenate([x[:, first:last], x[:, :padding] + 3], 1) for x in (q, k, v))
        lengths = integers(slot), integers(first), integers(last - first)
        answer: Array = slots.graph(*map(tensor, pieces), *lengths).asnumpy()[:, : last - first]
        return answer

    whole = extend(0, 0, 24)
    np.testing.assert_array_equal(extend(3, 0, 24, padding=8), whole)
    np.testing.assert_array_equal(np.concatenate([extend(2, 0, 10), extend(2, 10, 24, padding=2)], 1), whole)
    for held in slots.held:
        rows = stored(held)[:, :, :24]
        np.testing.assert_array_equal(rows[2], rows[0])
        np.testing.assert_array_equal(rows[3], rows[0])


def test_tokens_decoded_one_by_one_give_what_the_whole_prompt_gave() -> None:
    slots = Slots(AscendBackend(12, 2, 128))
    q, k, v = slots.new(1, 12)
    whole = slots.graph(tensor(q), tensor(k), tensor(v), integers(0), integers(0), integers(12)).asnumpy()
    for token in range(12):
        row = (tensor(np.tile(x[:, token : token + 1], (4, 1, 1, 1))) for x in (q, k, v))
        answer = slots.graph(*row, integers(0, 1, 2, 3), integers(*[token] * 4), integers(0, 1, 1, 0)).asnumpy()
        for slot in (1, 2):
            np.testing.assert_allclose(answer[slot], whole[0, token : token + 1], **CLOSE[ms.float16])


@pytest.mark.parametrize("tokens", [1, 3])
def test_exported_extensions_give_the_same_answers_and_fill_their_own_slots(tmp_path: Path, tokens: int) -> None:
    attention, shape = AscendBackend(4, 2, 64), (1 if tokens == 1 else 2, 2, 16, 64)
    inputs = [tensor(rng(1, tokens, n, 64)) for n in (4, 2, 2)]
    cell = cells.Extend(attention, *(parameter(np.zeros(shape), name) for name in ("keys", "values")))
    lengths = [integers(0), integers(tokens)]
    ms.export(cell, *inputs, lengths[0], lengths[0], lengths[1], file_name=str(tmp_path / "extend"), file_format="MINDIR")
    loaded = nn.GraphCell(ms.load(str(tmp_path / "extend.mindir")))
    for live in range(0, 4 * tokens, tokens):
        arguments = (*inputs, integers(shape[0] - 1), integers(live), lengths[1])
        np.testing.assert_array_equal(loaded(*arguments).asnumpy(), run(cell, *arguments))


@pytest.mark.parametrize("width", [48, 1536])
def test_rms_norm_matches(width: int) -> None:
    x, weight = rng(5, width), rng(width)
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weight
    np.testing.assert_allclose(run(cells.RmsNorm(), x, weight), expected, rtol=1e-5, atol=1e-6)


# What the emulation itself must keep to, since everything above rests on it.


def test_a_complete_mask_hides_what_it_says_and_next_tokens_what_lies_further_on() -> None:
    q, k, v = rng(2, 4, 3, 16), rng(2, 2, 5, 16), rng(2, 2, 5, 16)
    hidden = np.random.default_rng(0).random((2, 1, 3, 5)) < 0.4
    hidden[..., 0] = False
    halves = [Tensor(x.astype(np.float16)) for x in (q, k, v)]
    for further, arguments in ((1 << 31, {"next_tokens": (1 << 31) - 1}), (1, {"next_tokens": 1}), (0, {})):
        answer = ms.jit(cells.Prompt(4, 2, **arguments))(*halves, Tensor(hidden)).asnumpy().astype(np.float64)
        seen = ~hidden[:, 0] & (np.arange(5) <= np.arange(3)[:, None] + further)
        for batch in range(2):
            heads = (x[batch].transpose(1, 0, 2) for x in (q, k, v))
            np.testing.assert_allclose(answer[batch].transpose(1, 0, 2), attend(*heads, seen[batch]), **CLOSE[ms.float16])


def test_scattered_rows_go_to_their_indices_and_the_last_of_two_stays() -> None:
    before, new = rng(2, 3, 8, 16), rng(4, 16)
    at = np.array([[1, 2, 7], [0, 0, 0], [1, 0, 3], [0, 0, 0]], np.int32)
    cache = parameter(before, "cache")
    answer = ms.jit(cells.Scatter(cache))(Tensor(at), Tensor(new.astype(np.float16))).asnumpy()
    for index, row in zip(at, new, strict=True):
        before[tuple(index)] = row
    np.testing.assert_array_equal(answer, before)
    np.testing.assert_array_equal(stored(cache), before)


def test_what_the_documentation_forbids_is_refused() -> None:
    x, one = tensor(rng(6, 2, 16)), tensor(rng(6, 1, 2, 16))
    half = Tensor(rng(1, 2, 6, 16).astype(np.float16))
    attention = AscendBackend(2, 2, 16)
    slots = [parameter(rng(6, 2, 8, 16), name) for name in ("keys", "values")]
    everything = Tensor(np.ones((6, 1, 1, 8), np.bool_))
    row = Tensor(np.zeros((1, 16), np.float16))

    def lengths(*ends: int) -> Tensor:
        return Tensor(ends, ms.int64)

    def mask(*shape: int) -> Tensor:
        return Tensor(np.zeros(shape, np.bool_))

    for message, cell, inputs in (
        ("atten_mask shape", cells.Prompt(2, 2), (half, half, half, mask(2048, 2048))),  # MindSpore says so itself
        ("only BNSD with sparse_mode 0", cells.Prompt(2, 2, sparse_mode=3), (half, half, half, mask(6, 6))),
        ("last cumulative length", cells.WithMask(attention), (x, x, x, lengths(4), lengths(7))),
        ("keys of length 0", cells.WithMask(attention), (x, x, x, lengths(3, 3, 6), lengths(3, 3, 8))),
        ("sees no key", cells.WithMask(attention, *slots), (one, one, one, everything, Tensor([0] * 6, ms.int32))),
        ("an index outside its tensor", cells.Scatter(slots[0]), (Tensor([[0, 0, 8]], ms.int32), row)),
        ("the KV slots are copied", cells.ReadOnBothSides(slots[0]), (Tensor([[0, 0, 7]], ms.int32), row)),
    ):
        with pytest.raises(RuntimeError, match=message):
            ms.jit(cell)(*inputs).asnumpy()
