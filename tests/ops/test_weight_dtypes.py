"""Tests of 16-bit and 8-bit weights: products, bitwise equality and packing."""

import subprocess
import sys
import tracemalloc
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore import Tensor
from numpy.typing import NDArray

from mindnlp_ocr.bench.products import Method, ProductCase, compiled
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.ops import native
from mindnlp_ocr.ops.operators import CpuOperators
from mindnlp_ocr.ops.packing import NUMPY, PANEL, pack, pack_gate, panel_inputs, panel_rows
from mindnlp_ocr.weights.quantize import GROUP, Quantized, WeightDtype, concatenate, dequantize, quantize
from tests.ops import test_decoder_layer as layer
from tests.ops.arrays import Array, back, integers, random, tensor
from tests.ops.test_operators import PRODUCTS, assert_rows_are_their_own, run

pytestmark = pytest.mark.skipif(not native.available()[0], reason=native.available()[1])

SIXTEEN: tuple[WeightDtype, ...] = ("bf16", "fp16")
WITH_TABLE: tuple[Method, ...] = (*PRODUCTS, "embed")


def weights_of(case: ProductCase) -> list[int]:
    """Which inputs are weights."""
    return [1, 2] if case.work == "gate" else [1]


def rounded(case: ProductCase, inputs: list[NDArray[Any]], dtype: WeightDtype) -> list[NDArray[Any]]:
    """The inputs with weights as the dtype holds them, in float32."""
    held = weights_of(case)
    return [x.astype(NUMPY[dtype]).astype(np.float32) if i in held else x for i, x in enumerate(inputs)]


# 16 bits: float32 arithmetic on rounded weights


@pytest.mark.parametrize("dtype", SIXTEEN)
@pytest.mark.parametrize("method", WITH_TABLE)
@pytest.mark.parametrize(("rows", "width", "out"), [(1, 7, 31), (2, 33, 65), (4, 1100, 40), (5, 64, 96), (130, 50, 70)])
def test_sixteen_bits_give_the_bits_of_float32_on_rounded_weights(
    instruction_set: str, dtype: WeightDtype, method: Method, rows: int, width: int, out: int
) -> None:
    case = ProductCase(method, rows, width, out)
    inputs = case.inputs()
    expected = run(case, CpuOperators(), rounded(case, inputs, dtype))
    assert run(case, CpuOperators(dtype), inputs).tobytes() == expected.tobytes()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_sixteen_bits_of_random_sizes(data: st.DataObject) -> None:
    native.use_instruction_set(data.draw(st.sampled_from(native.instruction_sets())))
    try:
        dtype, method = data.draw(st.sampled_from(SIXTEEN)), data.draw(st.sampled_from(WITH_TABLE))
        case = ProductCase(method, *(data.draw(st.integers(1, most)) for most in (20, 1500, 100)))
        inputs = case.inputs()
        expected = run(case, CpuOperators(), rounded(case, inputs, dtype))
        assert run(case, CpuOperators(dtype), inputs).tobytes() == expected.tobytes()
    finally:
        native.use_instruction_set(native.instruction_sets()[-1])


# 8 bits


def eight_bit_inputs(case: ProductCase) -> list[NDArray[Any]]:
    """Rows that lose nothing in 8 bits: whole numbers, and 127 times a power of two in every group."""
    random_numbers = np.random.default_rng(1)
    x = random_numbers.integers(-127, 128, (case.rows, case.width)).astype(np.float32)
    x[:, ::GROUP] = 127
    powers = 2.0 ** random_numbers.integers(-3, 4, (case.rows, -(-case.width // GROUP)))
    x *= np.repeat(powers, GROUP, axis=1)[:, : case.width].astype(np.float32)
    inputs = case.inputs()
    return [x if case.work != "embed" else inputs[0], *inputs[1:]]


def dequantized(case: ProductCase, inputs: list[NDArray[Any]]) -> list[NDArray[Any]]:
    held = weights_of(case)
    return [dequantize(quantize(x)) if i in held else x for i, x in enumerate(inputs)]


@pytest.mark.parametrize("method", WITH_TABLE)
@pytest.mark.parametrize(
    ("rows", "width", "out"),
    [(1, 4, 1), (1, 128, 32), (2, 132, 33), (3, 384, 40), (12, 1176, 31), (13, 260, 65), (100, 128, 70)],
)
def test_eight_bits_match_float64_on_dequantised_weights(
    instruction_set: str, method: Method, rows: int, width: int, out: int
) -> None:
    case = ProductCase(method, rows, width, out)
    inputs = eight_bit_inputs(case)
    expected = case.expected(dequantized(case, inputs))
    scale = float(np.abs(expected).max())
    np.testing.assert_allclose(run(case, CpuOperators("int8"), inputs), expected, rtol=1e-5, atol=2e-6 * scale)


def test_rounding_a_row_moves_the_answer_by_no_more_than_half_a_step_a_number(instruction_set: str) -> None:
    case = ProductCase("linear", 50, 1000, 40)
    inputs = case.inputs()
    x, weight, _ = dequantized(case, inputs)
    steps = np.stack([np.abs(x[:, i : i + GROUP]).max(1) / 127 for i in range(0, 1000, GROUP)], 1)
    bound = np.repeat(steps / 2, GROUP, axis=1)[:, :1000] @ np.abs(weight).T
    away = np.abs(run(case, CpuOperators("int8"), inputs) - case.expected(dequantized(case, inputs)))
    assert (away <= bound * 1.001 + 1e-5).all()
    assert away.max() > 1e-4  # rows are rounded


def test_eight_bits_have_the_same_bits_on_processors_that_fuse_alike() -> None:
    case = ProductCase("linear", 20, 520, 70)
    inputs, answers = case.inputs(), {}
    try:
        for name in native.instruction_sets():
            native.use_instruction_set(name)
            answers[name] = run(case, CpuOperators("int8"), inputs).tobytes()
    finally:
        native.use_instruction_set(native.instruction_sets()[-1])
    answers.pop("portable")  # multiplies and adds in two steps
    assert len(set(answers.values())) <= 1


@pytest.mark.parametrize("width", [4, 28, 60, 64, 68, 124, 128, 132, 192, 196, 260, 1176])
def test_tiles_give_the_bits_of_vectors(width: int) -> None:
    if "amx" not in native.instruction_sets():
        pytest.skip("the processor has no AMX")
    random_numbers = np.random.default_rng(width)
    several = [*range(1, 34), 47, 48, 49, 63, 64, 65, 80, 95, 96, 97, 100]  # around every edge of a tile
    try:
        for method, rows in [("linear", rows) for rows in several] + [("linear_add", 200), ("gate", 97), ("gate", 7)]:
            case = ProductCase(method, rows, width, 33)
            x, *others = case.inputs(seed=rows)
            x *= 10.0 ** random_numbers.integers(-3, 4, (rows, 1)).astype(np.float32)
            x[rows // 2, : width // 2] = 0
            for row, value in enumerate([0, np.nan, np.inf, 1e-38, 1e-30, 1e30, 3e38][: rows - 1]):
                x[row] = np.sign(x[row]) * value if row > 2 else np.where(np.arange(width) == row % width, value, x[row])
            answers = []
            for name in ("avx512vnni", "amx"):
                native.use_instruction_set(name)
                answers.append(run(case, CpuOperators("int8"), [x, *others]).tobytes())
            assert answers[0] == answers[1], rows
    finally:
        native.use_instruction_set(native.instruction_sets()[-1])


def test_no_instruction_set_reads_or_writes_beyond_a_buffer_and_all_run_in_a_forked_child(instruction_set: str) -> None:
    command = [sys.executable, "-m", "tests.ops.guarded_calls", str(native.LIBRARY), instruction_set]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("size", [1e-40, 1e-36, 1e-28, 1.0, 1e28, 1e34])
def test_a_row_is_rounded_to_the_same_bytes_whatever_divides(size: float) -> None:
    """Wide vectors multiply by the reverse of the step and put the quotient right; the others divide."""
    random_numbers = np.random.default_rng(0)
    x = (random_numbers.uniform(-127.5, 127.5, (3000, GROUP)).round() + 0.5).astype(np.float32)  # halfway, or nearly
    largest = random_numbers.uniform(100, 130, (3000, 1)).astype(np.float32)
    x = np.clip(x * (largest / 127), -largest, largest) * np.float32(size)
    x = np.nextafter(x, random_numbers.choice([-np.inf, np.inf], x.shape).astype(np.float32)).astype(np.float32)
    inputs = [x, 127 * np.eye(GROUP, dtype=np.float32), np.zeros(GROUP, np.float32)]
    answers = []
    try:
        for name in native.instruction_sets()[1:]:
            native.use_instruction_set(name)
            answers.append(run(ProductCase("linear", 3000, GROUP, GROUP), CpuOperators("int8"), inputs).tobytes())
    finally:
        native.use_instruction_set(native.instruction_sets()[-1])
    assert len(set(answers)) <= 1


def test_a_row_is_rounded_to_the_nearest_step_on_every_instruction_set(instruction_set: str) -> None:
    largest = np.random.default_rng(0).uniform(0.5, 2, (300, 1)).astype(np.float32)
    step = largest / np.float32(127)
    x = np.concatenate([largest, (np.arange(GROUP - 1, dtype=np.float32) + np.float32(0.5)) * step], 1)  # halfway, or nearly
    inputs = [x, 127 * np.eye(GROUP, dtype=np.float32), np.zeros(GROUP, np.float32)]
    answer = run(ProductCase("linear", 300, GROUP, GROUP), CpuOperators("int8"), inputs)
    np.testing.assert_array_equal(np.rint(answer / 127 / step), np.rint(x / step).clip(-127, 127))


def test_a_group_of_zeros_adds_nothing_and_what_is_not_finite_stays_in_its_row(instruction_set: str) -> None:
    case = ProductCase("linear", 5, 256, 40)
    x, weight, bias = case.inputs()
    x[1, :GROUP], x[2], x[3, 130], x[4, 5] = 0, 0, np.nan, np.inf
    answer = run(case, CpuOperators("int8"), [x, weight, bias])
    np.testing.assert_array_equal(answer[2], bias)
    half = run(ProductCase("linear", 1, GROUP, 40), CpuOperators("int8"), [x[1:2, GROUP:], weight[:, GROUP:], bias])
    np.testing.assert_array_equal(answer[1], half[0])
    assert np.isnan(answer[3:]).all()
    assert np.isfinite(answer[:3]).all()


@pytest.mark.parametrize("dtype", [*SIXTEEN, "int8"])
@pytest.mark.parametrize("method", PRODUCTS)
def test_a_rows_bits_are_its_own(instruction_set: str, dtype: WeightDtype, method: Method) -> None:
    assert_rows_are_their_own(ProductCase(method, 131, 1100, 75), CpuOperators(dtype))


@pytest.mark.parametrize("dtype", [*SIXTEEN, "int8"])
@pytest.mark.parametrize("method", WITH_TABLE)
def test_graph_mode_gives_pynatives_bits(dtype: WeightDtype, method: Method) -> None:
    case, operators = ProductCase(method, 30, 76, 41), CpuOperators(dtype)
    inputs = case.inputs()
    assert compiled(case, operators, inputs)().tobytes() == run(case, operators, inputs).tobytes()


@pytest.mark.parametrize("dtype", [*SIXTEEN, "int8"])
def test_the_fused_layers_answer_is_that_of_its_parts(dtype: WeightDtype) -> None:
    """Any fused operator multiplies as the single ones do: here a vision block whose attention sees one patch alone."""
    width, inner = 32, 64
    x, angles = random(1, width), np.zeros((1, width // 2))
    operators = CpuOperators(dtype)
    packed = [Tensor(operators.pack(random(out, n, seed=i).astype(np.float32))) for i, (out, n) in enumerate(
        [(3 * width, width), (width, width), (inner, width), (width, inner)])]  # fmt: skip
    biases = [tensor(random(n, seed=9)) for n in (3 * width, width, inner, width)]
    norm = tensor(1 + random(width) / 9), tensor(random(width, seed=7))
    eps, one = Tensor(np.array([1e-6], np.float32)), integers(1)
    linears = [part for pair in zip(packed, biases, strict=True) for part in pair]
    fused = native.vision_block()(
        tensor(x), tensor(np.cos(angles)), tensor(np.sin(angles)), integers(0, 1), eps,
        *norm, *linears[:4], *norm, *linears[4:],
    )  # fmt: skip
    qkv = operators.linear(operators.layer_norm(tensor(x), *norm), packed[0], biases[0], one)
    middle = operators.linear_add(qkv[:, 2 * width :], packed[1], biases[1], tensor(x), one)
    hidden = operators.linear_quick_gelu(operators.layer_norm(middle, *norm), packed[2], biases[2], one)
    assert back(fused).tobytes() == back(operators.linear_add(hidden, packed[3], biases[3], middle, one)).tobytes()


def run_layer(
    x: Array, angles: Array, held: list[Array], slot: int, live: int, operators: CpuOperators, as_dtype: WeightDtype
) -> tuple[Array, Array, Array]:
    """The decoder layer with weights rounded to a dtype, and held in that of the operators."""
    inputs = layer.arguments(x, angles, held[0], held[1], [slot], [live], [x.shape[1]], "float32")
    published = {"qkv": layer.QKV_WEIGHT, "out": layer.OUT_WEIGHT, "down": layer.DOWN_WEIGHT}
    rounding = np.float32 if as_dtype == "int8" else NUMPY[as_dtype]
    for name, weight in published.items():
        inputs[name] = Tensor.from_numpy(operators.pack(weight.astype(rounding).astype(np.float32)))
    gate, up = (x.astype(rounding).astype(np.float32) for x in (layer.GATE_WEIGHT, layer.UP_WEIGHT))
    inputs["gate/up"] = Tensor.from_numpy(operators.pack_gate(gate, up))
    y = native.decoder_layer()(*inputs.values())
    return back(y).reshape(x.shape), back(inputs["keys"]), back(inputs["values"])


@pytest.mark.parametrize("dtype", [*SIXTEEN, "int8"])
def test_a_decoder_layers_bits_are_those_of_its_pieces_and_of_float32_on_rounded_weights(
    instruction_set: str, dtype: WeightDtype
) -> None:
    (x, angles), held, operators = layer.new_tokens(1, 40), list(layer.slots_of("float32")), CpuOperators(dtype)
    whole = run_layer(x, angles, held, 0, 0, operators, dtype)
    if dtype != "int8":
        expected = run_layer(x, angles, held, 0, 0, CpuOperators(), dtype)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(whole, expected, strict=True))
    try:
        for threads, (first, last) in enumerate(pairwise([0, 1, 14, 40]), 1):
            native.use_threads(threads)
            y, *held = run_layer(x[:, first:last], angles[:, first:last], held, 3, first, operators, dtype)
            assert y.tobytes() == whole[0][:, first:last].tobytes()
    finally:
        native.use_threads(0)


# Packing


def unpacked(packed: NDArray[Any], out: int, width: int) -> NDArray[np.float32]:
    """The weight again, through the embedding's operator."""
    dtype: WeightDtype = next(name for name, kind in NUMPY.items() if np.dtype(kind) == packed.dtype)  # type: ignore[assignment]
    rows = native.embed(dtype)(integers(*range(out)), Tensor.from_numpy(packed))
    assert rows.shape == (out, width)
    return np.asarray(rows.asnumpy())


@pytest.mark.parametrize("source", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("dtype", NUMPY)
def test_what_is_packed_is_the_weight_rounded_to_the_nearest(source: Any, dtype: WeightDtype) -> None:
    weight = random(70, 300).astype(np.float32).astype(source)
    expected = dequantize(quantize(weight)) if dtype == "int8" else weight.astype(NUMPY[dtype]).astype(np.float32)
    packed = pack(weight, dtype)
    assert packed.shape == (3, panel_rows(300, dtype), PANEL)
    assert panel_inputs(packed.shape[1], dtype) == 300
    np.testing.assert_array_equal(unpacked(packed, 70, 300), expected)


@pytest.mark.parametrize("dtype", NUMPY)
def test_large_weights_are_packed_in_parts_as_small_ones(dtype: WeightDtype, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = random(150, 200).astype(np.float32)
    whole = pack(weight, dtype)
    monkeypatch.setattr("mindnlp_ocr.ops.packing.AT_ONCE", 1)
    assert pack(weight, dtype).tobytes() == whole.tobytes()


@pytest.mark.parametrize("dtype", NUMPY)
def test_quantised_weights_pack_to_the_bits_of_quantising_when_packing(dtype: WeightDtype) -> None:
    weight = random(70, 300).astype(np.float32)
    q = quantize(weight)
    expected = weight if dtype == "int8" else dequantize(q)
    assert pack(q, dtype).tobytes() == pack(expected, dtype).tobytes()
    both = pack_gate(q, quantize(2 * weight), dtype)
    assert both[::2].tobytes() == pack(expected, dtype).tobytes()


def test_quantising_keeps_zeros_and_the_largest_number_of_each_group() -> None:
    weight = random(3, 300).astype(np.float32)
    weight[1, :GROUP] = 0
    q, scales = quantize(weight)
    assert scales.shape == (3, 3)
    assert scales[1, 0] == 0
    assert not q[1, :GROUP].any()
    assert (np.abs(q[[0, 2], :GROUP]).max(1) == 127).all()
    assert np.abs(dequantize(Quantized(q, scales)) - weight).max() <= scales.max() / 2 * 1.0001


@pytest.mark.parametrize("size", [1e-30, 1e-37, 1e-39])
def test_weights_so_small_that_the_reverse_of_a_scale_is_infinite_are_rounded_as_others(size: float) -> None:
    weight = (random(3, 300) * size).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        away = np.abs(dequantize(quantize(weight)) - weight).max()
    assert away < np.abs(weight).max() / 200


@pytest.mark.parametrize("dtype", NUMPY)
def test_packing_a_gate_holds_the_packed_weight_once(dtype: WeightDtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mindnlp_ocr.ops.packing.AT_ONCE", 1)
    gate, up = (random(2000, 256, seed=i).astype(np.float32) for i in range(2))
    tracemalloc.start()
    try:
        packed = pack_gate(gate, up, dtype)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert packed[1::2].tobytes() == pack(up, dtype).tobytes()
    assert peak < 1.4 * packed.nbytes


def test_several_weights_become_one_whether_quantised_or_not() -> None:
    a, b = (random(n, 200).astype(np.float32) for n in (3, 5))
    whole = concatenate([quantize(a), quantize(b)])
    assert isinstance(whole, Quantized)
    np.testing.assert_array_equal(dequantize(whole), dequantize(quantize(np.concatenate([a, b]))))
    np.testing.assert_array_equal(concatenate([quantize(a), b]), np.concatenate([dequantize(quantize(a)), b]))


def test_weights_that_a_dtype_cannot_hold_are_refused_in_words() -> None:
    with pytest.raises(SetupError, match=r"a weight of 6 inputs has no int8 form \(not a multiple of 4\)"):
        pack(random(3, 6), "int8")
    with pytest.raises(SetupError, match="a weight of 70000 does not fit in fp16: use bf16 or fp32"):
        pack(np.array([[1.0, -70000.0]]), "fp16")


WRONG_DTYPE, WRONG_SHAPE = 3, 4


@pytest.mark.parametrize(
    ("weight", "code"),
    [
        (Tensor(np.zeros((2, 8, PANEL), np.int8)), WRONG_SHAPE),  # the header is missing
        (Tensor(np.zeros((2, 8 + 8, PANEL), np.int32)), WRONG_DTYPE),
        (Tensor(np.zeros((2, 8, PANEL), np.uint8)), WRONG_DTYPE),
    ],
)
def test_packed_weights_that_do_not_fit_raise(weight: Tensor, code: int) -> None:
    with pytest.raises(RuntimeError) as error:
        native.linear("Linear")(tensor(random(5, 8)), weight, tensor(random(40)), integers(5)).asnumpy()
    assert native.explain(error.value) == f"Linear: {native.FAULTS[code]}"


def test_int8_rows_that_are_no_multiple_of_four_raise() -> None:
    with pytest.raises(RuntimeError) as error:
        native.linear("Linear")(
            tensor(random(5, 6)), Tensor(np.zeros((2, 6 + 8, PANEL), np.int8)), tensor(random(40)), integers(5)
        ).asnumpy()
    assert native.explain(error.value) == f"Linear: {native.FAULTS[WRONG_SHAPE]}"
