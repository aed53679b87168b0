"""Tests of the fused vision blocks against float64 NumPy, and that images and windows in a batch do not affect each other.

"plain": LayerNorm and quick GELU; "gated": RMSNorm and a gated MLP.
"""

from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindnlp_ocr.bench.reference import attend_images
from mindnlp_ocr.ops import native
from mindnlp_ocr.ops.norm import NORM_EPS
from mindnlp_ocr.ops.operators import CpuOperators
from tests.ops.arrays import Array, back, integers, random, tensor
from tests.ops.test_decoder_layer import WRONG_COUNT, WRONG_DTYPE, WRONG_LENGTHS, WRONG_RANK, WRONG_SHAPE

pytestmark = pytest.mark.skipif(not native.available()[0], reason=native.available()[1])

HEADS, DIM, INNER = 3, 16, 80
WIDTH = HEADS * DIM
WEIGHTS = {
    "qkv": random(3 * WIDTH, WIDTH) / 7,
    "out": random(WIDTH, WIDTH, seed=1) / 7,
    "fc1": random(INNER, WIDTH, seed=2) / 7,
    "fc2": random(WIDTH, INNER, seed=3) / 9,
    "up": random(INNER, WIDTH, seed=9) / 7,
}
BIASES = {name: random(len(weight), seed=4) for name, weight in WEIGHTS.items()}
NORMS = [(1 + random(WIDTH, seed=i) / 5, random(WIDTH, seed=i + 1)) for i in (5, 7)]


both_forms = pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])


def arguments(x: Array, angles: Array, starts: list[int], gated: bool) -> dict[str, Tensor]:
    """The operator's inputs, in its order."""

    def linear(name: str) -> dict[str, Tensor]:
        return {name: tensor(CpuOperators().pack(WEIGHTS[name])), f"{name} bias": tensor(BIASES[name])}

    def norm(i: int) -> dict[str, Tensor]:
        bias = {} if gated else {f"norm{i} bias": tensor(NORMS[i][1])}
        return {f"norm{i}": tensor(NORMS[i][0]), **bias}

    def widening() -> dict[str, Tensor]:
        if not gated:
            return linear("fc1")
        packed = CpuOperators().pack_gate(WEIGHTS["fc1"], WEIGHTS["up"])
        return {"fc1": tensor(packed), "fc1 bias": tensor(np.concatenate([BIASES["fc1"], BIASES["up"]]))}

    return {
        "x": tensor(x),
        "cos": tensor(np.cos(angles)),
        "sin": tensor(np.sin(angles)),
        "starts": integers(*starts),
        "eps": Tensor(np.array([NORM_EPS], np.float32)),
        **norm(0),
        **linear("qkv"),
        **linear("out"),
        **norm(1),
        **widening(),
        **linear("fc2"),
    }


def patches(n: int, seed: int = 0) -> tuple[Array, Array]:
    """x [n, width], and the angles [n, head_dim / 2]."""
    return random(n, WIDTH, seed=seed), 3 * random(n, DIM // 2, seed=seed)


def run(x: Array, angles: Array, starts: list[int], gated: bool, compiled: bool = False) -> Array:
    block = native.vision_block(gated)
    return back((ms.jit(block) if compiled else block)(*arguments(x, angles, starts, gated).values()))


def expected(x: Array, angles: Array, starts: list[int], gated: bool) -> Array:
    """The block in float64; padding is zero."""

    def norm(x: Array, i: int) -> Array:
        weight, bias = NORMS[i] if not gated else (NORMS[i][0], 0)
        centred = x if gated else x - x.mean(-1, keepdims=True)
        answer: Array = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + NORM_EPS) * weight + bias
        return answer

    def linear(x: Array, name: str) -> Array:
        answer: Array = x @ WEIGHTS[name].T + BIASES[name]
        return answer

    def turned(x: Array) -> Array:
        pairs = (x[..., : DIM // 2] + 1j * x[..., DIM // 2 :]) * np.exp(1j * angles)[:, None]
        return np.concatenate([pairs.real, pairs.imag], -1)

    q, k, v = np.split(linear(norm(x, 0), "qkv").reshape(len(x), 3 * HEADS, DIM), 3, axis=1)
    attended = np.zeros((len(x), WIDTH))
    attended[: starts[-1]] = attend_images(turned(q), turned(k), v, starts).reshape(starts[-1], WIDTH)
    x = x + linear(attended, "out")
    hidden = linear(norm(x, 1), "fc1")
    if gated:
        x = x + linear(hidden / (1 + np.exp(-hidden)) * linear(norm(x, 1), "up"), "fc2")
    else:
        x = x + linear(hidden / (1 + np.exp(-1.702 * hidden)), "fc2")
    x[starts[-1] :] = 0
    return x


@both_forms
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("n", "starts"), [(1, [0, 1]), (40, [0, 40]), (64, [0, 50]), (200, [0, 30, 31, 160]), (64, [0, 20, 20, 64]), (9, [0, 0])]
)
def test_output_matches_float64(instruction_set: str, n: int, starts: list[int], compiled: bool, gated: bool) -> None:
    x, angles = patches(n)
    np.testing.assert_allclose(run(x, angles, starts, gated, compiled), expected(x, angles, starts, gated), atol=2e-5)


@both_forms
def test_an_images_bits_depend_neither_on_its_neighbours_nor_on_padding_nor_on_threads(
    instruction_set: str, gated: bool
) -> None:
    x, angles = patches(150)
    alone = run(x, angles, [0, 150], gated)
    (before, turns), (after, more) = patches(33, seed=1), patches(20, seed=2)
    after[10:] = np.nan  # padding
    packed = np.concatenate([before, x, after]), np.concatenate([turns, angles, more])
    try:
        for threads in (1, 2, 3):
            native.use_threads(threads)
            answer = run(*packed, [0, 33, 183, 193], gated)
            assert answer[33:183].tobytes() == alone.tobytes()
            assert not answer[193:].any()
    finally:
        native.use_threads(0)


@both_forms
@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"starts": integers(0, 5, 4)}, WRONG_LENGTHS),
        ({"starts": integers(1, 5)}, WRONG_LENGTHS),
        ({"starts": integers(0, 7)}, WRONG_LENGTHS),
        ({"starts": integers(0)}, WRONG_LENGTHS),
        ({"cos": tensor(random(6, DIM))}, WRONG_SHAPE),
        ({"cos": tensor(random(6, 7)), "sin": tensor(random(6, 7))}, WRONG_SHAPE),  # heads of 14
        ({"qkv": tensor(random(5, WIDTH + 1, 32))}, WRONG_SHAPE),
        ({"fc1 bias": tensor(random(2 * INNER + 64))}, WRONG_SHAPE),
        ({"fc2 bias": tensor(random(WIDTH + 1))}, WRONG_SHAPE),
        ({"norm1": tensor(random(WIDTH + 1))}, WRONG_SHAPE),
        ({"eps": tensor(random(2))}, WRONG_SHAPE),
        ({"out": tensor(random(WIDTH, WIDTH))}, WRONG_RANK),
        ({"starts": tensor(np.array([0.0, 6.0]))}, WRONG_DTYPE),
        ({"x": tensor(random(6, WIDTH), "float16")}, WRONG_DTYPE),
    ],
    ids=lambda x: ", ".join(x) if isinstance(x, dict) else "",
)
def test_inputs_that_do_not_fit_raise(changes: dict[str, Any], code: int, gated: bool) -> None:
    with pytest.raises(RuntimeError) as error:
        native.vision_block(gated)(*(arguments(*patches(6), [0, 6], gated) | changes).values()).asnumpy()
    assert native.explain(error.value) == f"{'Gated' if gated else ''}VisionBlock: {native.FAULTS[code]}"


def test_a_bias_of_another_width_raises() -> None:
    changed = arguments(*patches(6), [0, 6], False) | {"norm1 bias": tensor(random(WIDTH + 1))}
    with pytest.raises(RuntimeError) as error:
        native.vision_block()(*changed.values()).asnumpy()
    assert native.explain(error.value) == f"VisionBlock: {native.FAULTS[WRONG_SHAPE]}"


@both_forms
def test_a_missing_input_raises(gated: bool) -> None:
    with pytest.raises(RuntimeError) as error:
        native.vision_block(gated)(*list(arguments(*patches(6), [0, 6], gated).values())[:-1]).asnumpy()
    assert native.explain(error.value) == f"{'Gated' if gated else ''}VisionBlock: {native.FAULTS[WRONG_COUNT]}"
