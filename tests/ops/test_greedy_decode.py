"""Tests that the operator for several decode steps gives the same bits as its parts."""

from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindnlp_ocr.ops import native
from mindnlp_ocr.ops.operators import CpuOperators
from tests.ops.arrays import DTYPES, Array, back, integers, parameter, random, tensor
from tests.ops.test_decoder_layer import (
    DIM,
    EPS,
    FULL_SLOT,
    HIDDEN,
    LENGTH,
    SLOTS,
    WRONG_COUNT,
    WRONG_DTYPE,
    WRONG_LENGTHS,
    WRONG_RANK,
    WRONG_SHAPE,
    arguments,
    new_tokens,
    slots_of,
)  # fmt: skip

pytestmark = pytest.mark.skipif(not native.available()[0], reason=native.available()[1])

LAYERS, VOCAB, STEPS = 2, 70, 6
TABLE, HEAD, BIAS = random(VOCAB, HIDDEN, seed=1), random(VOCAB, HIDDEN, seed=2), random(VOCAB)
NORM = np.random.default_rng(2).uniform(0.5, 1.5, HIDDEN)
ANGLES = random(LENGTH, DIM // 2, seed=3) * 3
NO_END = [VOCAB]
OPERATORS = CpuOperators()
PACKED_TABLE, PACKED_HEAD = tensor(OPERATORS.pack_table(TABLE)), tensor(OPERATORS.pack(HEAD))


def layers(dtype: str = "float32") -> list[dict[str, Tensor]]:
    """The tensors of each layer; the second has the first's weights and other keys and values."""
    some = arguments(*new_tokens(1, 1), *slots_of(dtype), [0], [0], [1], dtype)
    first = dict(list(some.items())[7:])
    keys, values = (x[::-1] for x in slots_of(dtype))
    return [first, first | {"keys": parameter(keys, "keys1", dtype), "values": parameter(values, "values1", dtype)}]


def inputs(texts: list[tuple[int, ...]], ends: list[int], dtype: str = "float32") -> dict[str, Any]:
    """texts: (token, position, slot, live, count) of each segment."""
    columns = [integers(*column) for column in zip(*texts, strict=True)]
    return {
        **dict(zip(("token", "position", "slot", "live", "count"), columns, strict=True)),
        "ends": integers(*ends),
        "cos": tensor(np.cos(ANGLES)),
        "sin": tensor(np.sin(ANGLES)),
        "table": PACKED_TABLE,
        "norm": tensor(NORM),
        "head": PACKED_HEAD,
        "bias": tensor(BIAS),
        "eps": Tensor(np.array([EPS], np.float32)),
        "layers": layers(dtype),
    }


def run(given: dict[str, Any], compiled: bool = False) -> tuple[list[list[int]], Array]:
    """The tokens of each segment, and the logits [segments, vocab]."""
    tokens, _, logits = run_whole(given, compiled)
    return tokens, logits


def run_whole(given: dict[str, Any], compiled: bool = False) -> tuple[list[list[int]], list[list[float]], Array]:
    """The tokens of each segment, the logarithms of their probabilities, and the logits [segments, vocab]."""
    flat = [x for name, x in given.items() if name != "layers"]
    operator = native.greedy_decode(STEPS)
    tokens, log_probabilities, logits = (ms.jit(operator) if compiled else operator)(
        *flat, *(x for layer in given["layers"] for x in layer.values())
    )
    table = tokens.asnumpy()
    assert all((column[len(new) :] == -1).all() for column in table.T for new in [column[column >= 0]])
    probable = back(log_probabilities)
    assert not probable[table < 0].any()
    values = [probable[table[:, segment] >= 0, segment].tolist() for segment in range(table.shape[1])]
    return [column[column >= 0].tolist() for column in table.T], values, back(logits)


def one_by_one(text: tuple[int, ...], ends: list[int], dtype: str = "float32") -> tuple[list[int], Array]:
    """The same for one text, by the operators for the parts."""
    token, position, slot, live, count = text
    held, chosen, logits = layers(dtype), list[int](), np.zeros(VOCAB)
    for step in range(count):
        x = OPERATORS.embed(integers(token), PACKED_TABLE)
        turn = [tensor(f(ANGLES[position + step])[None]) for f in (np.cos, np.sin)]
        for layer in held:
            x = native.decoder_layer()(
                x, *turn, integers(slot), integers(live + step), integers(1),
                Tensor(np.array([EPS], np.float32)), *layer.values(),
            )  # fmt: skip
        x = OPERATORS.rms_norm(x, tensor(NORM), Tensor(np.array([EPS], np.float32)))
        logits = back(OPERATORS.linear(x, PACKED_HEAD, tensor(BIAS), integers(1)))[0]
        token = int(logits.argmax())
        chosen.append(token)
        if token in ends:
            break
    return chosen, logits


TEXTS = [(5, 3, 2, 9, 6), (69, 70, 0, 100, 4), (0, 0, 1, 0, 0), (7, 1, 4, 1, 1), (33, 40, 3, LENGTH - 6, 6)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_tokens_and_logits_are_those_of_the_parts_bit_for_bit(instruction_set: str, dtype: str) -> None:
    tokens, logits = run(inputs(TEXTS, NO_END, dtype))
    for segment, text in enumerate(TEXTS):
        expected, last = one_by_one(text, NO_END, dtype)
        assert tokens[segment] == expected
        assert len(expected) == text[4]
        assert logits[segment].tobytes() == last.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_graph_mode_gives_pynatives_bits(dtype: str) -> None:
    (ours, logits), (theirs, expected) = (run(inputs(TEXTS, NO_END, dtype), compiled) for compiled in (True, False))
    assert ours == theirs
    assert logits.tobytes() == expected.tobytes()


def test_log_probabilities_are_those_of_a_softmax_and_of_the_operator_choose_bit_for_bit(instruction_set: str) -> None:
    given = inputs(TEXTS, NO_END)
    tokens, values, logits = run_whole(given)
    chosen, alone = native.choose()(tensor(logits))
    for segment, new in enumerate(tokens):
        if not new:
            continue
        exact = logits[segment].astype(np.float64)
        expected = exact[new[-1]] - np.log(np.exp(exact - exact.max()).sum()) - exact.max()
        assert abs(values[segment][-1] - expected) < 2e-6
        assert chosen.asnumpy()[segment] == new[-1]
        assert np.float32(values[segment][-1]).tobytes() == alone.asnumpy()[segment].tobytes()


def test_a_text_ends_with_an_end_token_and_the_others_go_on() -> None:
    free = run(inputs(TEXTS, NO_END))[0]
    end = free[0][1]
    first = {segment: new.index(end) for segment, new in enumerate(free) if end in new}
    assert 0 in first
    assert len(first) < 4
    tokens, logits = run(inputs(TEXTS, [VOCAB, end]))
    for segment, new in enumerate(free):
        assert tokens[segment] == (new[: first[segment] + 1] if segment in first else new)
        assert logits[segment].tobytes() == one_by_one(TEXTS[segment], [end])[1].tobytes()


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    answers = []
    try:
        for threads in (1, 2, 3):
            native.use_threads(threads)
            given = inputs(TEXTS, NO_END)
            tokens, logits = run(given)
            answers.append((tokens, logits.tobytes(), back(given["layers"][1]["keys"]).tobytes()))
    finally:
        native.use_threads(0)
    assert answers[0] == answers[1] == answers[2]


def test_where_all_segments_rest_nothing_is_written() -> None:
    given = inputs([(1, 1, 1, 1, 0), (2, 2, 1, 2, 0)], NO_END)
    before = [back(layer[name]) for layer in given["layers"] for name in ("keys", "values")]
    tokens, logits = run(given)
    assert tokens == [[], []]
    assert not logits.any()
    for held, array in zip((layer[name] for layer in given["layers"] for name in ("keys", "values")), before, strict=True):
        np.testing.assert_array_equal(back(held), array)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"count": integers(STEPS + 1, 1)}, WRONG_LENGTHS),
        ({"count": integers(-1, 1)}, WRONG_LENGTHS),
        ({"slot": integers(2, 2)}, WRONG_LENGTHS),
        ({"slot": integers(0, SLOTS)}, WRONG_LENGTHS),
        ({"slot": integers(-1, 0)}, WRONG_LENGTHS),
        ({"token": integers(VOCAB, 0)}, WRONG_LENGTHS),
        ({"token": integers(-1, 0)}, WRONG_LENGTHS),
        ({"position": integers(-1, 0)}, WRONG_LENGTHS),
        ({"position": integers(LENGTH - 1, 0)}, WRONG_LENGTHS),
        ({"live": integers(-1, 0)}, WRONG_LENGTHS),
        ({"live": integers(LENGTH - 1, 0)}, FULL_SLOT),
        ({"live": integers(1)}, WRONG_SHAPE),
        ({"sin": tensor(random(LENGTH - 1, DIM // 2))}, WRONG_SHAPE),
        ({"table": tensor(random(2, HIDDEN, 32))}, WRONG_SHAPE),
        ({"head": tensor(random(3, HIDDEN + 1, 32))}, WRONG_SHAPE),
        ({"eps": tensor(random(2))}, WRONG_SHAPE),
        ({"norm": tensor(random(1, HIDDEN))}, WRONG_RANK),
        ({"ends": tensor(random(1))}, WRONG_DTYPE),
        ({"cos": integers(1)}, WRONG_RANK),
    ],
    ids=lambda x: ", ".join(x) if isinstance(x, dict) else "",
)
def test_inputs_that_do_not_fit_raise(changes: dict[str, Tensor], code: int) -> None:
    given = inputs([(1, 1, 0, 5, 2), (2, 2, 1, 6, 2)], NO_END) | changes
    with pytest.raises(RuntimeError) as error:
        run(given)
    assert native.explain(error.value) == f"GreedyDecode: {native.FAULTS[code]}"


@pytest.mark.parametrize(
    ("name", "other", "code"),
    [
        ("down", tensor(random(2, 20, 32)), WRONG_SHAPE),
        ("keys", parameter(random(SLOTS, 2, LENGTH + 1, DIM), "longer"), WRONG_SHAPE),
        ("norm1", tensor(random(HIDDEN), "float16"), WRONG_DTYPE),
    ],
)
def test_a_second_layer_that_does_not_fit_raises(name: str, other: Tensor, code: int) -> None:
    given = inputs([(1, 1, 0, 5, 2)], NO_END)
    given["layers"][1][name] = other
    with pytest.raises(RuntimeError) as error:
        run(given)
    assert native.explain(error.value) == f"GreedyDecode: {native.FAULTS[code]}"


def test_a_layer_with_a_tensor_missing_raises() -> None:
    given = inputs([(1, 1, 0, 5, 2)], NO_END)
    del given["layers"][1]["values"]
    with pytest.raises(RuntimeError) as error:
        run(given)
    assert native.explain(error.value) == f"GreedyDecode: {native.FAULTS[WRONG_COUNT]}"
