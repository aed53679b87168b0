"""Tests of our tiled attention operators against float64 NumPy, with every instruction set, in graph and PyNative mode."""

from itertools import pairwise
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindnlp_ocr.bench.reference import attend_images, attend_prompt, attend_slots
from mindnlp_ocr.ops import native
from tests.ops.arrays import DTYPES, Array, as_held, back, integers, parameter, random, tensor

pytestmark = pytest.mark.skipif(not native.available()[0], reason=native.available()[1])
HEAD_DIMS = st.one_of(st.sampled_from([64, 80, 96, 128]), st.integers(1, 32).map(lambda n: 8 * n))


def vision(q: Array, k: Array, v: Array, cu_seqlens: list[int], dtype: str = "float32", compiled: bool = False) -> Array:
    op = native.flash_vision()
    return back((ms.jit(op) if compiled else op)(*(tensor(x, dtype) for x in (q, k, v)), integers(*cu_seqlens)))


def extend(
    q: Array, k: Array, v: Array, keys: Array, values: Array, live: list[int], count: list[int],
    dtype: str = "float32", kv_dtype: str = "float32", compiled: bool = False, slots: list[int] | None = None,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """The answer, and the keys and values [slots, kv_heads, length, head_dim] after it; slots in order by default."""
    op = native.flash_decode()
    held = [parameter(x, f"rows{i}", kv_dtype) for i, x in enumerate((keys, values))]
    lengths = [integers(*x) for x in (range(len(live)) if slots is None else slots, live, count)]
    y = (ms.jit(op) if compiled else op)(*(tensor(x, dtype) for x in (q, k, v)), *held, *lengths)
    return back(y), back(held[0]), back(held[1])


def prefill(q: Array, k: Array, v: Array, live: int, dtype: str = "float32", compiled: bool = False) -> Array:
    """A prompt [tokens, heads, head_dim] into a slot that holds nothing but NaN."""
    empty = np.full((1, k.shape[1], max(live, 1), k.shape[2]), np.nan)
    return extend(*(x[None] for x in (q, k, v)), empty, empty, [0], [live], dtype, dtype, compiled)[0][0]


# Against float64


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [8, 64, 72, 80, 96, 128, 256])
def test_prefill_matches_float64_for_every_head_dim_dtype_and_instruction_set(
    instruction_set: str, head_dim: int, dtype: str
) -> None:
    tokens, live = 301, 290  # two blocks of queries, three tiles of keys
    q, k, v = (as_held(random(tokens, heads, head_dim), dtype) for heads in (3, 1, 1))
    answer = prefill(q, k, v, live, dtype)
    expected = attend_prompt(q, k, v, live)
    np.testing.assert_allclose(answer[:live], expected, atol=DTYPES[dtype][1])
    assert not answer[live:].any()


@pytest.mark.parametrize("live", [0, 1, 16, 31, 32, 33, 95, 96, 97, 127, 128, 129, 511, 512, 513, 600])
def test_prefill_at_every_edge_of_a_tile(instruction_set: str, live: int) -> None:
    q, k, v = (random(600, heads, 16) for heads in (4, 2, 2))
    answer = prefill(q, k, v, live)
    expected = attend_prompt(q, k, v, live)
    np.testing.assert_allclose(answer[:live], expected, atol=1e-5)
    assert not answer[live:].any()


@pytest.mark.parametrize("cu_seqlens", [[0, 400], [0, 1, 97, 98, 400], [0, 0, 130, 130, 390], [0, 0], [0, 96, 192, 320]])
@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_images_attend_to_themselves_alone(instruction_set: str, cu_seqlens: list[int], dtype: str) -> None:
    q, k, v = (as_held(random(400, 3, 40, seed=i), dtype) for i in range(3))
    live = cu_seqlens[-1]
    expected = attend_images(q, k, v, cu_seqlens)
    answer = vision(q, k, v, cu_seqlens, dtype)
    np.testing.assert_allclose(answer[:live], expected, atol=DTYPES[dtype][1])
    assert not answer[live:].any()


@pytest.mark.parametrize("kv_dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, 3, 150])
def test_new_tokens_are_written_and_attend_to_their_slot(instruction_set: str, tokens: int, kv_dtype: str) -> None:
    live, count = [0, 1, 511, 300, 700], [tokens, tokens, tokens, 0, tokens - 1]
    q, k, v = (random(5, tokens, heads, 24, seed=i) for i, heads in enumerate((4, 2, 2)))
    keys, values = (as_held(random(5, 2, 850, 24, seed=i), kv_dtype) for i in (3, 4))
    expected = attend_slots(q, as_held(k, kv_dtype), as_held(v, kv_dtype), keys, values, live, count)
    answer = extend(q, k, v, keys, values, live, count, kv_dtype=kv_dtype)
    np.testing.assert_allclose(answer[0], expected[0], atol=1e-5)
    np.testing.assert_array_equal(answer[1], as_held(expected[1], kv_dtype))
    np.testing.assert_array_equal(answer[2], as_held(expected[2], kv_dtype))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_random_prompts_match_float64(data: st.DataObject) -> None:
    tokens = data.draw(st.integers(1, 700))
    live = data.draw(st.integers(0, tokens))
    kv_heads, group, head_dim = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 8)), data.draw(HEAD_DIMS)
    dtype = data.draw(st.sampled_from(sorted(DTYPES)))
    q, k, v = (
        as_held(random(tokens, h, head_dim, seed=i), dtype) for i, h in enumerate((kv_heads * group, kv_heads, kv_heads))
    )
    expected = attend_prompt(q, k, v, live)
    np.testing.assert_allclose(prefill(q, k, v, live, dtype)[:live], expected, atol=DTYPES[dtype][1])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_random_images_match_float64(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(0, 300), min_size=1, max_size=5))
    padding, heads, head_dim = data.draw(st.integers(0, 50)), data.draw(st.integers(1, 4)), data.draw(HEAD_DIMS)
    dtype = data.draw(st.sampled_from(sorted(DTYPES)))
    patches, live = max(1, sum(sizes) + padding), sum(sizes)
    q, k, v = (as_held(random(patches, heads, head_dim, seed=i), dtype) for i in range(3))
    starts = [0, *np.cumsum(sizes).tolist()]
    expected = attend_images(q, k, v, starts)
    np.testing.assert_allclose(vision(q, k, v, starts, dtype)[:live], expected, atol=DTYPES[dtype][1])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_random_slots_in_any_order_match_float64_and_no_other_is_touched(data: st.DataObject) -> None:
    slots, tokens, length = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5)), data.draw(st.integers(8, 900))
    kv_heads, group, head_dim = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 7)), data.draw(HEAD_DIMS)
    taken = data.draw(st.permutations(range(slots)))[: data.draw(st.integers(1, slots))]
    count = [data.draw(st.integers(0, tokens)) for _ in taken]
    live = [data.draw(st.integers(0, length - new)) for new in count]
    kv_dtype = data.draw(st.sampled_from(sorted(DTYPES)))
    shapes = [(len(taken), tokens, h, head_dim) for h in (kv_heads * group, kv_heads, kv_heads)]
    q, k, v = (as_held(random(*shape, seed=i), kv_dtype) for i, shape in enumerate(shapes))
    keys, values = (as_held(random(slots, kv_heads, length, head_dim, seed=i), kv_dtype) for i in (3, 4))
    answer = extend(q, k, v, keys, values, live, count, kv_dtype=kv_dtype, slots=taken)
    expected = attend_slots(q, k, v, keys[taken], values[taken], live, count)
    np.testing.assert_allclose(answer[0], expected[0], atol=1e-5)
    keys[taken], values[taken] = expected[1:]
    np.testing.assert_array_equal(answer[1], keys)
    np.testing.assert_array_equal(answer[2], values)


def test_large_scores_do_not_overflow(instruction_set: str) -> None:
    q, k, v = (random(40, 2, 16, seed=i) * scale for i, scale in enumerate((300, 300, 1)))
    expected = attend_prompt(q, k, v, 40)
    np.testing.assert_allclose(prefill(q, k, v, 40), expected, atol=1e-3)


# The same bits


def slots_at(live: list[int], tokens: int = 1) -> list[Any]:
    n = len(live)
    q, k, v = (random(n, tokens, heads, 64, seed=i) for i, heads in enumerate((6, 2, 2)))
    return [q, k, v, random(n, 2, 1300, 64, seed=3), random(n, 2, 1300, 64, seed=4), live, [tokens] * n]


def test_a_slots_bits_do_not_depend_on_its_neighbours_nor_on_its_place(instruction_set: str) -> None:
    live = [0, 1200, 511, 513]
    together = extend(*slots_at(live))
    for s in range(4):
        alone = extend(*(x[s : s + 1] for x in slots_at(live)))
        assert all(one.tobytes() == all_[s : s + 1].tobytes() for one, all_ in zip(alone, together, strict=True))
    order = [2, 0, 3, 1]
    q, k, v, keys, values, _, count = slots_at(live)
    moved = extend(*(x[order] for x in (q, k, v)), keys, values, [live[s] for s in order], count, slots=order)
    assert moved[0].tobytes() == together[0][order].tobytes()
    assert moved[1].tobytes() == together[1].tobytes()


def test_one_thread_and_two_give_the_same_bits(instruction_set: str) -> None:
    q, k, v = (random(700, heads, 80, seed=heads) for heads in (6, 2, 2))
    answers = []
    for threads in (1, 2, 3):
        native.use_threads(threads)
        try:
            images = vision(q[:, :2], k, v, [0, 50, 700])
            answers.append([prefill(q, k, v, 700).tobytes(), images.tobytes(), extend(*slots_at([1200, 3]))[0].tobytes()])
        finally:
            native.use_threads(0)
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize("kv_dtype", DTYPES)
def test_a_token_has_the_same_bits_in_a_prompt_in_a_bucket_and_in_any_split_of_the_prompt(
    instruction_set: str, kv_dtype: str
) -> None:
    tokens = 600
    q, k, v = (random(1, tokens, heads, 64, seed=i) for i, heads in enumerate((3, 1, 1)))
    empty = np.full((3, 1, 640, 64), np.nan)
    whole, *held = extend(q, k, v, empty, empty, [0], [tokens], kv_dtype=kv_dtype, slots=[1])
    padded = [np.concatenate([x, np.full((1, 40, *x.shape[2:]), np.nan)], 1) for x in (q, k, v)]
    answer, *rows = extend(*padded, empty, empty, [0], [tokens], kv_dtype=kv_dtype, slots=[2])
    assert answer[:, :tokens].tobytes() == whole.tobytes()
    assert all(a[2].tobytes() == b[1].tobytes() for a, b in zip(rows, held, strict=True))
    for starts in ([599], [1], [96, 512], [13, 14, 550], [100, 200, 300, 400, 500], range(595, 600)):
        rows = [empty, empty]
        for first, last in pairwise([0, *starts, tokens]):
            piece = [x[:, first:last] for x in (q, k, v)]
            answer, *rows = extend(*piece, *rows, [first], [last - first], kv_dtype=kv_dtype, slots=[1])
            assert answer.tobytes() == whole[:, first:last].tobytes(), (starts, first)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(rows, held, strict=True)), starts


# What lies in dead rows


def test_nan_and_infinity_in_dead_rows_do_not_leak(instruction_set: str) -> None:
    live = [4, 0, 700]
    inputs = slots_at(live, tokens=2)
    inputs[6] = [2, 0, 1]
    expected = extend(*inputs)[0]
    for poison in (np.nan, np.inf, -np.inf):
        for i in (3, 4):
            for s, held in enumerate(live):
                inputs[i][s, :, held:] = poison
        for i in (0, 1, 2):
            inputs[i][1], inputs[i][2, 1] = poison, poison  # padding among the new tokens
        assert extend(*inputs)[0].tobytes() == expected.tobytes()


def test_nan_in_the_padding_of_prompts_and_images_does_not_leak(instruction_set: str) -> None:
    q, k, v = (random(300, 2, 24, seed=i) for i in range(3))
    expected = prefill(q, k, v, 140), vision(q, k, v, [0, 100, 140])
    for x in (q, k, v):
        x[140:] = np.nan
    assert prefill(q, k, v, 140).tobytes() == expected[0].tobytes()
    assert vision(q, k, v, [0, 100, 140]).tobytes() == expected[1].tobytes()


def test_nan_in_a_live_row_shows(instruction_set: str) -> None:
    q, k, v = (random(30, 2, 24, seed=i) for i in range(3))
    k[7, 0, 3] = np.nan
    answer = prefill(q, k, v, 30)
    assert np.isnan(answer[7:, 0]).all()
    assert np.isfinite(answer[:7]).all()
    assert np.isfinite(answer[:, 1]).all()


# As an operator of MindSpore


def test_graph_mode_gives_pynatives_bits() -> None:
    q, k, v = (random(70, heads, 80, seed=heads) for heads in (6, 2, 2))
    assert prefill(q, k, v, 60, compiled=True).tobytes() == prefill(q, k, v, 60).tobytes()
    assert vision(q, q, q, [0, 20, 60], compiled=True).tobytes() == vision(q, q, q, [0, 20, 60]).tobytes()
    for compiled, eager in zip(extend(*slots_at([5, 700]), compiled=True), extend(*slots_at([5, 700])), strict=True):
        assert compiled.tobytes() == eager.tobytes()


def test_the_operators_survive_export_to_mindir_and_reload(tmp_path: Any) -> None:
    from tests.ops.exported import EveryOperator

    net = EveryOperator()
    tensors = [tensor(random(40, heads, 16, seed=heads)) for heads in (4, 2, 2)]
    tensors += [integers(0, 10, 40), integers(2), integers(5), integers(30), integers(0, 63, 7)]
    expected = [x.asnumpy() for x in net(*tensors)]
    ms.export(net, *tensors, file_name=str(tmp_path / "net"), file_format="MINDIR")
    reloaded = ms.nn.GraphCell(ms.load(str(tmp_path / "net.mindir")))
    for ours, theirs in zip(reloaded(*tensors), expected, strict=True):
        assert ours.asnumpy().tobytes() == theirs.tobytes()


SHAPES = {
    "q": (1, 10, 4, 16), "k": (1, 10, 2, 16), "v": (1, 10, 2, 16), "keys": (3, 2, 20, 16), "values": (3, 2, 20, 16),
    "slots": (1,), "live": (1,), "count": (1,),
}  # fmt: skip


@pytest.mark.parametrize("compiled", [False, True], ids=["pynative", "graph"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": (1, 10, 2, 24)}, r"q \[1, 10, 4, 16\], k \[1, 10, 2, 24\] and v \[1, 10, 2, 16\] have inconsistent shapes"),
        ({"v": (1, 9, 2, 16)}, r"have inconsistent shapes"),
        ({"k": (1, 10, 3, 16), "v": (1, 10, 3, 16)}, "4 query heads are not a multiple of 3 key-value heads"),
        (dict.fromkeys("qkv", (1, 10, 4, 12)), "head_dim 12 is not a multiple of 8 up to 256"),
        (dict.fromkeys("qkv", (1, 10, 4, 264)), "head_dim 264 is not a multiple of 8 up to 256"),
        (dict.fromkeys("qkv", (10, 2, 16)), r"q \[10, 2, 16\] has no segments: use \[segments, tokens, heads, head_dim\]"),
        ({"live": (2,)}, r"live has shape \[2\]: use \[1\], one per segment"),
        ({"slots": (1, 1)}, r"slots has shape \[1, 1\]: use \[1\], one per segment"),
        ({"count": (3,)}, r"count has shape \[3\]: use \[1\], one per segment"),
        ({"keys": (60, 16), "values": (60, 16)}, r"keys \[60, 16\] and values \[60, 16\] are not slots of 2 heads of 16"),
        ({"keys": (3, 2, 19, 16)}, r"keys \[3, 2, 19, 16\] and values \[3, 2, 20, 16\] are not slots"),
        ({"keys": (3, 1, 20, 16), "values": (3, 1, 20, 16)}, "are not slots of 2 heads of 16"),
    ],
)
def test_shapes_that_do_not_fit_are_named_before_the_call(change: dict[str, Any], message: str, compiled: bool) -> None:
    shapes = {**SHAPES, **change}
    arrays = [tensor(random(*shapes[name])) for name in ("q", "k", "v")]
    held = [parameter(random(*shapes[name]), name) for name in ("keys", "values")]
    lengths = [ms.Tensor(np.ones(shapes[name], np.int32)) for name in ("slots", "live", "count")]
    op = native.flash_decode()
    with pytest.raises(ValueError, match=message):
        (ms.jit(op) if compiled else op)(*arrays, *held, *lengths)


WRONG_LENGTHS = "slots, lengths or token ids that are negative, out of order, repeated or beyond their tensor"


@pytest.mark.parametrize(
    ("starts", "dtype", "words"),
    [
        ([0, 6, 5], "float32", WRONG_LENGTHS),
        ([1, 6], "float32", WRONG_LENGTHS),
        ([0, 11], "float32", WRONG_LENGTHS),
        ([0, 10], "float16", "an input of wrong dtype"),
    ],
)
def test_images_that_do_not_fit_raise_and_the_code_has_words(starts: list[int], dtype: str, words: str) -> None:
    x = random(10, 2, 16)
    with pytest.raises(RuntimeError) as error:
        native.flash_vision()(tensor(x), tensor(x, dtype), tensor(x), integers(*starts)).asnumpy()
    assert native.explain(error.value) == f"FlashVision: {words}"


@pytest.mark.parametrize(
    ("slots", "live", "count", "words"),
    [
        ([0, 2], [1300, 3], [1, 1], "the slot is full"),
        ([0, 2], [1, 1299], [0, 2], "the slot is full"),
        ([0, 3], [1, 1], [1, 1], WRONG_LENGTHS),
        ([-1, 0], [1, 1], [1, 1], WRONG_LENGTHS),
        ([0, 2], [1, -1], [1, 1], WRONG_LENGTHS),
        ([0, 2], [1, 1], [1, -1], WRONG_LENGTHS),
        ([0, 2], [1, 1], [1, 3], WRONG_LENGTHS),
        ([1, 1], [4, 4], [1, 1], WRONG_LENGTHS),
    ],
)
def test_slots_that_do_not_fit_raise_and_nothing_is_written(
    slots: list[int], live: list[int], count: list[int], words: str
) -> None:
    inputs = slots_at([0, 0, 0], tokens=2)
    held = [parameter(x, f"rows{i}") for i, x in enumerate(inputs[3:5])]
    with pytest.raises(RuntimeError) as error:
        native.flash_decode()(
            *(tensor(x[:2]) for x in inputs[:3]), *held, *(integers(*x) for x in (slots, live, count))
        ).asnumpy()
    assert native.explain(error.value) == f"FlashDecode: {words}"
    for rows, before in zip(held, inputs[3:5], strict=True):
        np.testing.assert_array_equal(back(rows), as_held(before, "float32"))


@pytest.mark.parametrize("wrong", range(8))
def test_an_input_of_another_dtype_raises_and_the_code_has_words(wrong: int) -> None:
    q, k, v, keys, values, live, count = slots_at([3])
    tensors = [tensor(q), tensor(k), tensor(v), parameter(keys, "keys"), parameter(values, "values")]
    tensors += [integers(0), integers(*live), integers(*count)]
    tensors[wrong] = tensors[wrong].astype(ms.float16)
    with pytest.raises(RuntimeError) as error:
        native.flash_decode()(*tensors).asnumpy()
    assert native.explain(error.value) == "FlashDecode: an input of wrong dtype"


def test_an_unknown_instruction_set_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        ValueError, match=r"instruction set 'sse9' is unknown or not supported by this processor: use one of .*avx512"
    ):
        native.use_instruction_set("sse9")
