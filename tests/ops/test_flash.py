"""Our tiled attention operators against float64 NumPy, on every instruction set, in graph mode and in PyNative."""

from typing import Any

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore import Parameter, Tensor
from numpy.typing import NDArray

from mindnlp_ocr.bench.reference import attend_images, attend_prompt, attend_slots
from mindnlp_ocr.ops import native

Array = NDArray[np.float64]
pytestmark = pytest.mark.skipif(not native.available()[0], reason=native.available()[1])
DTYPES = {"float32": (ms.float32, 1e-5), "float16": (ms.float16, 2e-3), "bfloat16": (ms.bfloat16, 2e-2)}
HEAD_DIMS = st.one_of(st.sampled_from([64, 80, 96, 128]), st.integers(1, 32).map(lambda n: 8 * n))


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


def tensor(array: Array, dtype: str) -> Tensor:
    return Tensor(array.astype(np.float32)).astype(DTYPES[dtype][0])


def as_held(array: Array, dtype: str) -> Array:
    """What is left of an array in a dtype."""
    return back(tensor(array, dtype))


def back(x: Tensor) -> Array:
    answer: Array = x.astype(ms.float32).asnumpy().astype(np.float64)
    return answer


def lengths(*values: int) -> Tensor:
    return Tensor(np.array(values, np.int32))


def prefill(q: Array, k: Array, v: Array, live: int, dtype: str = "float32", compiled: bool = False) -> Array:
    op = native.flash_prefill()
    return back((ms.jit(op) if compiled else op)(*(tensor(x, dtype) for x in (q, k, v)), lengths(live)))


def vision(q: Array, k: Array, v: Array, cu_seqlens: list[int], dtype: str = "float32", compiled: bool = False) -> Array:
    op = native.flash_vision()
    return back((ms.jit(op) if compiled else op)(*(tensor(x, dtype) for x in (q, k, v)), lengths(*cu_seqlens)))


def decode(
    q: Array, k: Array, v: Array, keys: Array, values: Array, live: list[int], count: list[int],
    dtype: str = "float32", kv_dtype: str = "float32", compiled: bool = False,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """keys, values [slots, kv_heads, length, head_dim]; the answer, and keys and values after it."""
    op = native.flash_decode()
    held = [Parameter(tensor(x.reshape(-1, x.shape[3]), kv_dtype), name=f"rows{i}") for i, x in enumerate((keys, values))]
    call = ms.jit(op) if compiled else op
    y = call(*(tensor(x, dtype) for x in (q, k, v)), *held, lengths(*live), lengths(*count))
    return back(y), back(held[0]).reshape(keys.shape), back(held[1]).reshape(keys.shape)


# Against float64


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [8, 64, 72, 80, 96, 128, 256])
def test_prefill_matches_float64_for_every_head_dim_dtype_and_instruction_set(
    instruction_set: str, head_dim: int, dtype: str
) -> None:
    tokens, live = 301, 290  # two blocks of queries, three tiles of keys
    q, k, v = (as_held(random(tokens, heads, head_dim), dtype) for heads in (6, 2, 2))
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
    answer = decode(q, k, v, keys, values, live, count, kv_dtype=kv_dtype)
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
def test_random_slots_match_float64(data: st.DataObject) -> None:
    slots, tokens, length = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5)), data.draw(st.integers(8, 900))
    kv_heads, group, head_dim = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 7)), data.draw(HEAD_DIMS)
    count = [data.draw(st.integers(0, tokens)) for _ in range(slots)]
    live = [data.draw(st.integers(0, length - new)) for new in count]
    kv_dtype = data.draw(st.sampled_from(sorted(DTYPES)))
    shapes = [(slots, tokens, h, head_dim) for h in (kv_heads * group, kv_heads, kv_heads)]
    q, k, v = (as_held(random(*shape, seed=i), kv_dtype) for i, shape in enumerate(shapes))
    keys, values = (as_held(random(slots, kv_heads, length, head_dim, seed=i), kv_dtype) for i in (3, 4))
    expected = attend_slots(q, k, v, keys, values, live, count)
    for ours, theirs in zip(decode(q, k, v, keys, values, live, count, kv_dtype=kv_dtype), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_large_scores_do_not_overflow(instruction_set: str) -> None:
    q, k, v = (random(40, 2, 16, seed=i) * scale for i, scale in enumerate((300, 300, 1)))
    expected = attend_prompt(q, k, v, 40)
    np.testing.assert_allclose(prefill(q, k, v, 40), expected, atol=1e-3)


# The same bits


def slots_at(live: list[int], tokens: int = 1) -> list[Any]:
    n = len(live)
    q, k, v = (random(n, tokens, heads, 64, seed=i) for i, heads in enumerate((6, 2, 2)))
    return [q, k, v, random(n, 2, 1300, 64, seed=3), random(n, 2, 1300, 64, seed=4), live, [tokens] * n]


def test_a_slots_bits_do_not_depend_on_its_neighbours(instruction_set: str) -> None:
    live = [0, 1200, 511, 513]
    together = decode(*slots_at(live))
    for s in range(4):
        alone = decode(*(x[s : s + 1] for x in slots_at(live)))
        assert all(one.tobytes() == all_[s : s + 1].tobytes() for one, all_ in zip(alone, together, strict=True))


def test_one_thread_and_two_give_the_same_bits(instruction_set: str) -> None:
    q, k, v = (random(700, heads, 80, seed=heads) for heads in (6, 2, 2))
    answers = []
    for threads in (1, 2, 3):
        native.use_threads(threads)
        try:
            images = vision(q[:, :2], k, v, [0, 50, 700])
            answers.append([prefill(q, k, v, 700).tobytes(), images.tobytes(), decode(*slots_at([1200, 3]))[0].tobytes()])
        finally:
            native.use_threads(0)
    assert answers[0] == answers[1] == answers[2]


def test_a_token_has_the_same_bits_in_a_prompt_in_a_bucket_and_one_at_a_time(instruction_set: str) -> None:
    tokens = 600
    q, k, v = (random(tokens, heads, 64, seed=heads) for heads in (6, 2, 2))
    whole = prefill(q, k, v, tokens)
    padded = [np.concatenate([x, np.full((100, *x.shape[1:]), 9.0)]) for x in (q, k, v)]
    assert prefill(*padded, tokens)[:tokens].tobytes() == whole.tobytes()
    keys, values = (x.transpose(1, 0, 2)[None].copy() for x in (k, v))
    for first, new in ((599, 1), (550, 50), (13, 3)):
        inputs = [x[None, first : first + new] for x in (q, k, v)]
        assert decode(*inputs, keys, values, [first], [new])[0][0].tobytes() == whole[first : first + new].tobytes()


# What lies in dead rows


def test_nan_and_infinity_in_dead_rows_do_not_leak(instruction_set: str) -> None:
    live = [4, 0, 700]
    inputs = slots_at(live, tokens=2)
    inputs[6] = [2, 0, 1]
    expected = decode(*inputs)[0]
    for poison in (np.nan, np.inf, -np.inf):
        for i in (3, 4):
            for s, held in enumerate(live):
                inputs[i][s, :, held:] = poison
        for i in (0, 1, 2):
            inputs[i][1], inputs[i][2, 1] = poison, poison  # padding among the new tokens
        assert decode(*inputs)[0].tobytes() == expected.tobytes()


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
    for compiled, eager in zip(decode(*slots_at([5, 700]), compiled=True), decode(*slots_at([5, 700])), strict=True):
        assert compiled.tobytes() == eager.tobytes()


def test_the_operators_survive_export_to_mindir_and_reload(tmp_path: Any) -> None:
    from tests.ops.exported import ThreeShapes

    net = ThreeShapes()
    q, k, v = (tensor(random(40, heads, 16, seed=heads), "float32") for heads in (4, 2, 2))
    expected = [x.asnumpy() for x in net(q, k, v, lengths(0, 10, 40), lengths(30), lengths(5))]
    ms.export(
        net, q, k, v, lengths(0, 10, 40), lengths(30), lengths(5), file_name=str(tmp_path / "net"), file_format="MINDIR"
    )
    reloaded = ms.nn.GraphCell(ms.load(str(tmp_path / "net.mindir")))
    for ours, theirs in zip(reloaded(q, k, v, lengths(0, 10, 40), lengths(30), lengths(5)), expected, strict=True):
        assert ours.asnumpy().tobytes() == theirs.tobytes()


@pytest.mark.parametrize("compiled", [False, True], ids=["pynative", "graph"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": (10, 2, 24)}, r"q \[10, 4, 16\], k \[10, 2, 24\] and v \[10, 2, 16\] do not fit together"),
        ({"v": (9, 2, 16)}, r"do not fit together"),
        ({"k": (10, 3, 16), "v": (10, 3, 16)}, "4 query heads are no multiple of 3 key-value heads"),
        ({"q": (10, 4, 12), "k": (10, 2, 12), "v": (10, 2, 12)}, "head_dim 12 is no multiple of 8 up to 256"),
        ({"q": (10, 4, 264), "k": (10, 2, 264), "v": (10, 2, 264)}, "head_dim 264 is no multiple of 8 up to 256"),
        ({"live": [3, 4]}, r"live has shape \[2\]: give \[1\]"),
    ],
)
def test_shapes_that_do_not_fit_are_named_before_the_call(change: dict[str, Any], message: str, compiled: bool) -> None:
    shapes: dict[str, Any] = {"q": (10, 4, 16), "k": (10, 2, 16), "v": (10, 2, 16), "live": [5], **change}
    op = native.flash_prefill()
    with pytest.raises(ValueError, match=message):
        (ms.jit(op) if compiled else op)(*(tensor(random(*shapes[x]), "float32") for x in "qkv"), lengths(*shapes["live"]))


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (
            lambda x: native.flash_prefill()(x, x, x, lengths(11)),
            "FlashPrefill: lengths that are negative, descend or exceed",
        ),
        (lambda x: native.flash_prefill()(x, x, x, lengths(-1)), "FlashPrefill: lengths that are negative"),
        (lambda x: native.flash_vision()(x, x, x, lengths(0, 6, 5)), "FlashVision: lengths that are negative, descend"),
        (lambda x: native.flash_vision()(x, x, x, lengths(1, 6)), "FlashVision: lengths that are"),
        (lambda x: native.flash_vision()(x, x, x, lengths(0, 11)), "FlashVision: lengths that are"),
        (lambda x: native.flash_prefill()(x, x.astype(ms.float16), x, lengths(3)), "FlashPrefill: an input of wrong dtype"),
        (lambda x: native.flash_prefill()(x, x, x, Tensor([3.0])), "FlashPrefill: an input of wrong dtype"),
    ],
)
def test_inputs_that_do_not_fit_raise_and_the_code_has_words(run: Any, words: str) -> None:
    with pytest.raises(RuntimeError) as error:
        run(tensor(random(10, 2, 16), "float32")).asnumpy()
    assert native.explain(error.value).startswith(words)


def test_a_full_slot_is_an_error_and_nothing_is_written() -> None:
    inputs = slots_at([1300, 3])
    op = native.flash_decode()
    held = [Parameter(tensor(x.reshape(-1, 64), "float32"), name=f"rows{i}") for i, x in enumerate(inputs[3:5])]
    with pytest.raises(RuntimeError) as error:
        op(*(tensor(x, "float32") for x in inputs[:3]), *held, lengths(1300, 3), lengths(1, 1)).asnumpy()
    assert native.explain(error.value) == "FlashDecode: the slot is full"
    np.testing.assert_array_equal(back(held[0]).reshape(inputs[3].shape), as_held(inputs[3], "float32"))


def test_an_unknown_instruction_set_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        ValueError, match=r"instruction set 'sse9' is unknown or not in this processor: give one of .*avx512"
    ):
        native.use_instruction_set("sse9")
