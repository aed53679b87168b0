"""Tests of products, norms and the embedding: both forms against float64 NumPy, and bitwise equality of ours."""

import dataclasses
from typing import Any, get_args

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore import Tensor
from numpy.typing import NDArray

from mindnlp_ocr.bench.products import Call, Method, ProductCase, compiled
from mindnlp_ocr.ops import native
from mindnlp_ocr.ops.operators import CpuOperators, Operators
from mindnlp_ocr.ops.packing import PANEL
from tests.ops.arrays import integers, random, tensor

with_library = pytest.mark.skipif(not native.available()[0], reason=native.available()[1])
METHODS: tuple[Method, ...] = get_args(Method)
PRODUCTS: tuple[Method, ...] = ("linear", "linear_add", "linear_quick_gelu", "linear_gelu", "gate", "tied_head")


def case_of(method: Method, rows: int, width: int, out: int) -> ProductCase:
    return ProductCase(method, rows, width, 0 if method in ("rms_norm", "layer_norm") else out)


def run(case: ProductCase, operators: Operators, inputs: list[NDArray[Any]], live: int | None = None) -> NDArray[np.float32]:
    """In PyNative."""
    answer = getattr(operators, case.work)(*case.tensors(operators, inputs, live)).asnumpy()
    assert answer.dtype == np.float32
    return np.asarray(answer)


# Against float64


@pytest.mark.parametrize("method", METHODS)
def test_both_forms_match_float64_as_a_graph_and_in_pynative(method: Method) -> None:
    case = case_of(method, 9, 83, 70)
    inputs = case.inputs()
    for operators in (Operators(), CpuOperators()) if native.available()[0] else (Operators(),):
        answer = compiled(case, operators, inputs)()
        np.testing.assert_allclose(answer, case.expected(inputs), atol=1e-5)
        np.testing.assert_allclose(run(case, operators, inputs), answer, atol=1e-5)


@with_library
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("rows", "width", "out"),
    [(1, 1, 1), (1, 7, 31), (2, 32, 32), (3, 33, 65), (11, 100, 5), (96, 64, 96), (97, 40, 33), (200, 13, 130)],
)
def test_odd_sizes_match_float64_on_every_instruction_set(
    instruction_set: str, method: Method, rows: int, width: int, out: int
) -> None:
    case = case_of(method, rows, width, out)
    inputs = case.inputs()
    np.testing.assert_allclose(run(case, CpuOperators(), inputs), case.expected(inputs), atol=1e-5)


@with_library
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_random_sizes_match_float64(data: st.DataObject) -> None:
    native.use_instruction_set(data.draw(st.sampled_from(native.instruction_sets())))
    try:
        method = data.draw(st.sampled_from(METHODS))
        case = case_of(method, *(data.draw(st.integers(1, most)) for most in (200, 300, 150)))
        inputs = case.inputs()
        np.testing.assert_allclose(run(case, CpuOperators(), inputs), case.expected(inputs), atol=2e-5)
    finally:
        native.use_instruction_set(native.instruction_sets()[-1])


@with_library
@pytest.mark.parametrize("width", [1023, 1024, 1025, 2500])
@pytest.mark.parametrize("rows", [1, 3, 50])
def test_widths_of_several_pieces_match_float64(instruction_set: str, rows: int, width: int) -> None:
    case = ProductCase("linear_add", rows, width, 40)
    inputs = case.inputs()
    np.testing.assert_allclose(run(case, CpuOperators(), inputs), case.expected(inputs), atol=2e-5)


@with_library
@pytest.mark.parametrize("method", ["linear_quick_gelu", "linear_gelu"])
def test_activations_match_float64_far_out_as_well(instruction_set: str, method: Method) -> None:
    x = np.concatenate([np.linspace(-30, 30, 601), [-1e4, 1e4, -89, 89, -0.0, 1e-30]]).astype(np.float32)
    case, inputs = ProductCase(method, len(x), 1, 1), [x[:, None], np.ones((1, 1), np.float32), np.zeros(1, np.float32)]
    np.testing.assert_allclose(run(case, CpuOperators(), inputs), case.expected(inputs), rtol=1e-5, atol=2e-6)


@with_library
def test_a_gate_matches_float64_far_out_as_well(instruction_set: str) -> None:
    gate = np.concatenate([np.linspace(-30, 30, 600), [-1e4, 1e4, -89, 89]])
    case = ProductCase("gate", len(gate), 2, 1)
    x = np.stack([gate, np.cos(gate)], 1).astype(np.float32)
    inputs = [x, np.array([[1, 0]], np.float32), np.array([[0, 1]], np.float32), np.array([0.5, -2], np.float32)]
    np.testing.assert_allclose(run(case, CpuOperators(), inputs), case.expected(inputs), rtol=1e-5, atol=2e-6)


@with_library
@pytest.mark.parametrize("method", ["linear_quick_gelu", "linear_gelu", "gate"])
def test_activations_of_infinity_are_their_limits_and_of_nan_are_nan(instruction_set: str, method: Method) -> None:
    weight = np.ones((1, 1), np.float32)
    others = [weight, np.zeros(2, np.float32)] if method == "gate" else [np.zeros(1, np.float32)]
    x = np.array([[np.inf], [np.nan], [1e30], [-1e30]], np.float32)
    answer = run(ProductCase(method, 4, 1, 1), CpuOperators(), [x, weight, *others])
    assert answer[0] == np.inf
    assert np.isnan(answer[1])
    assert answer[2] in (np.float32(1e30), np.inf)  # gate: 1e30 * 1e30
    assert answer[3] == 0


@with_library
@pytest.mark.parametrize("method", ["rms_norm", "layer_norm"])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
@pytest.mark.parametrize("width", [1, 5, 64, 1537])
def test_norms_match_float64_for_small_and_large_rows(
    instruction_set: str, method: Method, scale: float, width: int
) -> None:
    case = ProductCase(method, 5, width)
    x, *others = case.inputs()
    inputs = [(x * scale + scale).astype(np.float32), *others]
    np.testing.assert_allclose(run(case, CpuOperators(), inputs), case.expected(inputs), rtol=2e-4, atol=1e-4)


@with_library
def test_embedded_rows_are_those_of_the_table_to_the_bit(instruction_set: str) -> None:
    table, ids = random(70, 19).astype(np.float32), np.array([69, 0, 31, 32, 33, 0], np.int32)
    answer = run(ProductCase("embed", 6, 19, 70), CpuOperators(), [ids, table])
    np.testing.assert_array_equal(answer, table[ids])


# The same bits


@with_library
@pytest.mark.parametrize("method", [name for name in METHODS if name != "embed"])
def test_a_rows_bits_depend_neither_on_other_rows_nor_on_how_many_nor_on_threads(
    instruction_set: str, method: Method
) -> None:
    assert_rows_are_their_own(case_of(method, 200, 1100, 75), CpuOperators())


def assert_rows_are_their_own(case: ProductCase, operators: Operators) -> None:
    """Of at least 131 rows: alone, in any part, on several threads, beside rows that are not finite."""
    inputs = case.inputs()
    rowwise = [0, 3] if case.work == "linear_add" else [0]
    whole, end = run(case, operators, inputs), case.rows
    for first, last, threads in (
        (0, 1, 1),
        (end - 1, end, 2),
        (5, 7, 3),
        (20, 25, 1),
        (90, 103, 1),
        (0, 96, 2),
        (60, end, 3),
    ):
        part = [x[first:last] if i in rowwise else x for i, x in enumerate(inputs)]
        native.use_threads(threads)
        try:
            answer = run(dataclasses.replace(case, rows=last - first), operators, part)
        finally:
            native.use_threads(0)
        assert answer.tobytes() == whole[first:last].tobytes()
        other = [x.copy() for x in inputs]
        other[0][:first], other[0][last:] = np.nan, np.inf
        assert run(case, operators, other)[first:last].tobytes() == whole[first:last].tobytes()


@with_library
@pytest.mark.parametrize("method", PRODUCTS)
@pytest.mark.parametrize("live", [0, 1, 12, 95, 96, 97, 129, 130])
def test_padding_is_zero_and_changes_no_bit_of_the_rows_before_it(instruction_set: str, method: Method, live: int) -> None:
    case, operators = case_of(method, 130, 50, 41), CpuOperators()
    inputs = case.inputs()
    whole = run(case, operators, inputs)
    inputs[0][live:] = np.nan
    answer = run(case, operators, inputs, live)
    assert answer[:live].tobytes() == whole[:live].tobytes()
    assert not answer[live:].any()


@with_library
@pytest.mark.parametrize("method", METHODS)
def test_graph_mode_gives_pynatives_bits(method: Method) -> None:
    case, operators = case_of(method, 30, 75, 41), CpuOperators()
    inputs = case.inputs()
    assert compiled(case, operators, inputs)().tobytes() == run(case, operators, inputs).tobytes()


def test_weights_are_packed_in_panels_that_are_filled_up_with_zeros() -> None:
    operators, weight = CpuOperators(), random(PANEL + 3, 4).astype(np.float32)
    packed = operators.pack(weight)
    assert packed.shape == (2, 4, PANEL)
    np.testing.assert_array_equal(packed.transpose(0, 2, 1).reshape(-1, 4)[: PANEL + 3], weight)
    assert not packed[1, :, 3:].any()
    both = operators.pack_gate(weight, 2 * weight)
    np.testing.assert_array_equal(both[[0, 2]], packed)
    np.testing.assert_array_equal(both[[1, 3]], 2 * packed)


# What is refused

WRONG_COUNT, WRONG_RANK, WRONG_DTYPE, WRONG_SHAPE, _, WRONG_LENGTHS = range(1, 7)


def refused(op: Any, inputs: list[Tensor], name: str, code: int) -> None:
    with pytest.raises(RuntimeError) as error:
        op(*inputs).asnumpy()
    assert native.explain(error.value) == f"{name}: {native.FAULTS[code]}"


@with_library
@pytest.mark.parametrize("name", ["Linear", "LinearAdd", "LinearQuickGelu", "LinearGelu", "LinearSiluGate"])
@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({3: integers(6)}, WRONG_LENGTHS),
        ({3: integers(-1)}, WRONG_LENGTHS),
        ({3: tensor(np.array([5.0]))}, WRONG_DTYPE),
        ({3: integers(1, 2)}, WRONG_RANK),
        ({0: tensor(random(5, 9))}, WRONG_SHAPE),
        ({0: tensor(random(5, 8), "float16")}, WRONG_DTYPE),
        ({1: tensor(random(8, 40))}, WRONG_RANK),
        ({1: tensor(random(3, 8, 32))}, WRONG_SHAPE),
        ({1: tensor(random(2, 8, 31))}, WRONG_SHAPE),
        ({2: tensor(random(130))}, WRONG_SHAPE),
        ({2: tensor(random(1, 40))}, WRONG_RANK),
        ({3: None}, WRONG_COUNT),
    ],
    ids=str,
)
def test_products_that_do_not_fit_raise_and_the_code_has_words(name: Any, changes: dict[int, Any], code: int) -> None:
    parts = 2 if name == "LinearSiluGate" else 1
    inputs: list[Any] = [tensor(random(5, 8)), tensor(random(2 * parts, 8, 32)), tensor(random(40 * parts)), integers(5)]
    for i, change in changes.items():
        inputs[i] = change
    if inputs[3] is None:  # too few, or one too many
        inputs = inputs[:2] + [inputs[2]] * (1 if name == "LinearAdd" else 4)
    elif name == "LinearAdd":
        inputs.insert(3, tensor(random(5, *inputs[2].shape[-1:])))
    refused(native.linear(name), inputs, name, code)


@with_library
@pytest.mark.parametrize("shape", [(4, 40), (5, 39)])
def test_a_residual_of_another_shape_raises(shape: tuple[int, int]) -> None:
    inputs = [tensor(random(5, 8)), tensor(random(2, 8, 32)), tensor(random(40)), tensor(random(*shape)), integers(5)]
    refused(native.linear("LinearAdd"), inputs, "LinearAdd", WRONG_SHAPE)


@with_library
@pytest.mark.parametrize(("name", "inputs"), [("RmsNorm", 3), ("LayerNorm", 4)])
@pytest.mark.parametrize(
    ("wrong", "change", "code"),
    [
        (0, tensor(random(5, 7)), WRONG_SHAPE),
        (0, tensor(random(8)), WRONG_RANK),
        (1, tensor(random(8), "float16"), WRONG_DTYPE),
        (-1, tensor(random(2)), WRONG_SHAPE),
        (-1, None, WRONG_COUNT),
    ],
)
def test_norms_that_do_not_fit_raise(name: str, inputs: int, wrong: int, change: Tensor | None, code: int) -> None:
    tensors = [tensor(random(5, 8)), *[tensor(random(8))] * (inputs - 2), tensor(random(1))]
    tensors[wrong] = change
    op = {"RmsNorm": native.rms_norm, "LayerNorm": native.layer_norm}[name]()
    refused(op, [x for x in tensors if x is not None], name, code)


@with_library
@pytest.mark.parametrize("ids", [[0, 64], [-1], [1 << 30]])
def test_a_token_id_outside_the_table_raises(ids: list[int]) -> None:
    refused(native.embed(), [integers(*ids), tensor(random(2, 8, 32))], "Embed", WRONG_LENGTHS)


@with_library
def test_embeddings_that_do_not_fit_raise() -> None:
    table = tensor(random(2, 8, 32))
    refused(native.embed(), [tensor(np.zeros(3)), table], "Embed", WRONG_DTYPE)
    refused(native.embed(), [integers(0), tensor(random(2, 8, 31))], "Embed", WRONG_SHAPE)
    refused(native.embed(), [Tensor(np.zeros((1, 1), np.int32)), table], "Embed", WRONG_RANK)


@with_library
def test_an_error_in_a_graph_comes_out_of_the_call() -> None:
    case = case_of("linear", 5, 8, 40)
    with pytest.raises(RuntimeError) as error:
        ms.jit(Call(CpuOperators(), "linear"))(*case.tensors(CpuOperators(), case.inputs(), live=6)).asnumpy()
    assert native.explain(error.value) == f"Linear: {native.FAULTS[WRONG_LENGTHS]}"
