"""Tests of the Triton attention kernels in Triton's interpreter against float64 NumPy."""

import importlib.util
from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import ROOT

from .interpreter import Rows
from .reference import decoded_expected, poison, rng, segments_expected

pytest.importorskip(
    "triton", reason="Triton is not installed: `uv run --isolated --group triton pytest contrib/triton` brings it"
)
_spec = importlib.util.spec_from_file_location(
    "interpreted_flash_attention", ROOT / "contrib" / "triton" / "flash_attention.py"
)
assert _spec is not None and _spec.loader is not None
flash = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(flash)
pytestmark = [  # the interpreter's own way of reading a bound, and NaN times anything in a segment that is all NaN
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered in matmul:RuntimeWarning"),
]

Array = NDArray[Any]
TOLERANCE = {"float32": 1e-5, "float16": 2e-3}
SMALL = (16, 16)  # a tile that puts many edges into few rows
dtypes = pytest.mark.parametrize("dtype", TOLERANCE)
SHAPES = [("float32", 4, 1, 64), ("float16", 4, 4, 80), ("float16", 12, 2, 128), ("float32", 4, 4, 128)]
assert {dim for *_, dim in SHAPES} == set(flash.HEAD_DIMS)
shapes = pytest.mark.parametrize(("dtype", "heads", "kv_heads", "dim"), SHAPES)
uses = pytest.mark.parametrize("causal", [True, False], ids=["prefill", "vision"])


def segments(q: Array, k: Array, v: Array, bounds: Sequence[int], causal: bool, tile: tuple[int, int]) -> Array:
    """Return the kernel's answer. ``out`` is initialised with NaN, so that rows that are never written are detected."""
    out = np.full_like(q, np.nan)
    launch = flash.prefill if causal else flash.vision
    launch(Rows(q), Rows(k), Rows(v), Rows(out), Rows(np.array(bounds, np.int32)), tile=tile)
    return out


def decoded(q: Array, k: Array, v: Array, live: Sequence[int], tile: tuple[int, int]) -> Array:
    out = np.full_like(q, np.nan)
    flash.decode(Rows(q), Rows(k), Rows(v), Rows(out), Rows(np.array(live, np.int32)), tile=tile)
    return out


@shapes
def test_prefill_is_causal_and_groups_share_their_keys(dtype: str, heads: int, kv_heads: int, dim: int) -> None:
    q, k, v = rng(dtype, 150, heads, dim), rng(dtype, 150, kv_heads, dim), rng(dtype, 150, kv_heads, dim) + 1
    answer = segments(q, k, v, [0, 133], True, flash.TILES["prefill"])
    np.testing.assert_allclose(answer, segments_expected(q, k, v, [0, 133], True), atol=TOLERANCE[dtype])


@shapes
def test_vision_rows_attend_to_all_of_their_segment_only(dtype: str, heads: int, kv_heads: int, dim: int) -> None:
    q, k, v = rng(dtype, 150, heads, dim), rng(dtype, 150, kv_heads, dim), rng(dtype, 150, kv_heads, dim) + 1
    bounds = [0, 3, 17, 17, 147]
    answer = segments(q, k, v, bounds, False, flash.TILES["vision"])
    np.testing.assert_allclose(answer, segments_expected(q, k, v, bounds, False), atol=TOLERANCE[dtype])


@shapes
@pytest.mark.parametrize("new", [1, 4])
def test_decode_reads_each_slot_up_to_its_own_length(dtype: str, heads: int, kv_heads: int, dim: int, new: int) -> None:
    q, k, v = rng(dtype, 3, new, heads, dim), rng(dtype, 3, kv_heads, 140, dim), rng(dtype, 3, kv_heads, 140, dim) + 1
    live = [0, 57, 140 - new]
    answer = decoded(q, k, v, live, flash.TILES["decode"])
    np.testing.assert_allclose(answer, decoded_expected(q, k, v, live), atol=TOLERANCE[dtype])


@uses
@pytest.mark.parametrize("live", [0, 1, 16, 17, 31, 48])
def test_dead_rows_give_zeros_and_their_nan_or_inf_reaches_no_answer(live: int, causal: bool) -> None:
    q, k, v = (rng("float16", 48, 2, 64) + np.float16(i) for i in range(3))
    for array in (q, k, v):
        poison(array[live:])
    answer = segments(q, k, v, [0, live], causal, SMALL)
    np.testing.assert_array_equal(answer[live:], 0)
    np.testing.assert_allclose(answer, segments_expected(q, k, v, [0, live], causal), atol=2e-3)


@pytest.mark.parametrize(("live", "new"), [(0, 1), (0, 4), (14, 2), (14, 4), (15, 1), (15, 2), (16, 1), (31, 3), (44, 4)])
def test_rows_behind_the_new_tokens_may_hold_nan_or_inf(live: int, new: int) -> None:
    q, k, v = rng("float16", 2, new, 12, 64), rng("float16", 2, 2, 48, 64), rng("float16", 2, 2, 48, 64)
    lengths = [live, 3]
    for slot, length in enumerate(lengths):
        poison(k[slot, :, length + new :])
        poison(v[slot, :, length + new :])
    answer = decoded(q, k, v, lengths, SMALL)
    np.testing.assert_allclose(answer, decoded_expected(q, k, v, lengths), atol=2e-3)


@uses
@pytest.mark.parametrize("lengths", [[1] * 20, [16, 16, 16], [15, 1, 17, 0, 31], [0, 0, 40], [64], [5, 0]])
def test_segments_of_uneven_sizes_may_share_a_tile(lengths: list[int], causal: bool) -> None:
    q, k, v = (rng("float32", 64, 2, 64) + i for i in range(3))
    bounds = flash.segment_bounds(lengths, 64)
    answer = segments(q, k, v, bounds, causal, SMALL)
    np.testing.assert_allclose(answer, segments_expected(q, k, v, bounds, causal), atol=1e-5)
    np.testing.assert_array_equal(answer[bounds[-1] :], 0)


@uses
def test_a_segments_bits_do_not_depend_on_its_neighbours(causal: bool) -> None:
    q, k, v = (rng("float16", 48, 2, 64) for _ in range(3))
    bounds = [0, 10, 29, 40]
    together = segments(q, k, v, bounds, causal, SMALL)
    for array in (q, k, v):
        poison(array[:10])
        poison(array[29:])
    np.testing.assert_array_equal(segments(q, k, v, bounds, causal, SMALL)[10:29], together[10:29])


def test_a_slots_bits_do_not_depend_on_its_neighbours() -> None:
    q, k, v = rng("float16", 4, 2, 12, 128), rng("float16", 4, 2, 40, 128), rng("float16", 4, 2, 40, 128)
    live = [3, 0, 38, 17]
    together = decoded(q, k, v, live, SMALL)
    for slot in range(4):
        one = slice(slot, slot + 1)
        np.testing.assert_array_equal(decoded(q[one], k[one], v[one], live[one], SMALL), together[one])
        others = [a.copy() for a in (q, k, v)]
        for array in others:
            poison(array[:slot])
            poison(array[slot + 1 :])
        np.testing.assert_array_equal(decoded(*others, live, SMALL)[one], together[one])


def test_a_later_token_changes_no_bit_of_an_earlier_answer() -> None:
    q, k, v = (rng("float16", 48, 2, 64) for _ in range(3))
    whole = segments(q, k, v, [0, 48], True, SMALL)
    np.testing.assert_array_equal(segments(q, k, v, [0, 30], True, SMALL)[:30], whole[:30])


@dtypes
def test_scores_as_large_as_the_type_holds_do_not_overflow_the_softmax(dtype: str) -> None:
    q, k, v = (rng(dtype, 40, 1, 64) for _ in range(3))
    q, k = q * 100, k * 100
    answer = segments(q, k, v, [0, 40], True, SMALL)
    np.testing.assert_allclose(answer, segments_expected(q, k, v, [0, 40], True), atol=TOLERANCE[dtype])


def test_views_are_read_and_written_through_their_strides() -> None:
    qkv = rng("float32", 40, 8, 80)  # four query, two key and two value heads side by side, as one product gives them
    q, k, v = qkv[:, :4], qkv[:, 4:6], qkv[:, 6:]
    wide = np.full((40, 6, 80), 7, np.float32)
    flash.prefill(Rows(q), Rows(k), Rows(v), Rows(wide[:, 1:5]), Rows(np.array([0, 40], np.int32)), tile=SMALL)
    np.testing.assert_allclose(wide[:, 1:5], segments_expected(q, k, v, [0, 40], True), atol=1e-5)
    np.testing.assert_array_equal(wide[:, [0, 5]], 7)


def test_a_type_may_go_by_the_name_that_mindspore_gives_it() -> None:
    q, out = rng("float16", 20, 2, 64), np.zeros((20, 2, 64), np.float16)
    tensors = [Rows(array) for array in (q, q, q, out, np.array([0, 20], np.int32))]
    for tensor, name in zip(tensors, [ms.float16] * 4 + [ms.int32], strict=True):
        tensor.dtype = name
    flash.prefill(*tensors)
    np.testing.assert_allclose(out, segments_expected(q, q, q, [0, 20], True), atol=2e-3)


def test_a_bound_behind_the_bucket_reads_and_writes_nothing_there() -> None:
    room = rng("float32", 40, 2, 64)
    q = room[:20]
    poison(room[20:])
    before = room.copy()
    answer = segments(q, q, q, [0, 40], False, SMALL)
    np.testing.assert_allclose(answer, segments_expected(q, q, q, [0, 20], False), atol=1e-5)
    np.testing.assert_array_equal(room, before)


HALF = np.float16
ONE = np.zeros((4, 2, 64), HALF)
REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"q": np.zeros((4, 2, 72), HALF), "kv": np.zeros((4, 2, 72), HALF)},
        "head_dim 72 has no tested tile: use one of 64, 80",
    ),
    ({"q": np.zeros((4, 3, 64), HALF)}, "3 query heads do not share 2 key heads evenly: use a multiple of 2"),
    ({"q": np.zeros((4, 64), HALF)}, r"q has shape \[4, 64\]: use 3 dimensions"),
    ({"kv": np.zeros((5, 2, 64), HALF)}, r"k has shape \[5, 2, 64\]: q \[4, 2, 64\] requires \[4, 2, 64\]"),
    ({"kv": np.zeros((4, 2, 64), np.float32)}, "k is float32 and q is float16: cast all of them to float16"),
    ({"q": np.zeros((4, 2, 64), np.int16)}, "q is int16 and q is int16: cast all of them to float16"),
    ({"q": np.zeros((4, 2, 128), HALF)[..., ::2]}, "q has a last stride of 2: make each row of head_dim numbers contiguous"),
    ({"q": np.zeros((0, 2, 64), HALF)}, r"q has shape \[0, 2, 64\]: every size must be 1 or more"),
    (
        {"q": np.lib.stride_tricks.as_strided(ONE, (4, 2, 64), (2**31, 128, 2))},
        "q spans 3221225599 elements, but offsets are 32-b",
    ),
    ({"bounds": np.array([0, 4])}, r"bounds is int64 \[2\]: pass int32 \[2\], one more bound than segments"),
    ({"bounds": np.array([0], np.int32)}, r"bounds is int32 \[1\]: pass int32 \[2\]"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[message[:24] for _, message in REFUSED])
def test_a_wrong_argument_of_a_launch_is_named_with_its_remedy(change: dict[str, Any], message: str) -> None:
    given = {
        "q": np.zeros((4, 2, 64), HALF),
        "kv": np.zeros((4, 2, 64), HALF),
        "bounds": np.array([0, 4], np.int32),
    } | change
    q, kv, bounds = (Rows(given[name]) for name in ("q", "kv", "bounds"))
    with pytest.raises(ValueError, match=message):
        flash.prefill(q, kv, kv, Rows(np.zeros(q.shape, HALF)), bounds)


def test_decode_names_a_wrong_count_of_slots_or_new_tokens() -> None:
    q, kv = Rows(np.zeros((2, 9, 4, 64), HALF)), Rows(np.zeros((2, 2, 8, 64), HALF))
    with pytest.raises(ValueError, match=r"live is int32 \[3\]: pass int32 \[2\], one length per slot"):
        flash.decode(q, kv, kv, q, Rows(np.zeros(3, np.int32)))
    with pytest.raises(ValueError, match="9 new tokens do not fit into a slot of 8 rows: use 1 to 8"):
        flash.decode(q, kv, kv, q, Rows(np.zeros(2, np.int32)))


def test_lengths_are_checked_where_they_are_made() -> None:
    assert flash.segment_bounds([3, 0, 5], 8) == [0, 3, 3, 8]
    assert flash.live_lengths([0, 6], 2, 8) == [0, 6]
    with pytest.raises(ValueError, match="2 segments of 9 rows in a bucket of 8"):
        flash.segment_bounds([3, 6], 8)
    with pytest.raises(ValueError, match="segment length -1 is negative: use 0 or more"):
        flash.segment_bounds([-1], 8)
    with pytest.raises(ValueError, match="slot 1 has a length of 7, which does not leave 2 of 8 rows: use 0 to 6"):
        flash.live_lengths([0, 7], 2, 8)
