"""The fused decoder step against the eager layer that defines it."""

from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor
from numpy.typing import NDArray

from mindnlp_ocr.ops import native

pytestmark = pytest.mark.skipif(not native.available()[0], reason=native.available()[1])

HIDDEN, HEADS, KV_HEADS, DIM, INNER, LENGTH = 48, 6, 2, 8, 80, 16
EPS = 1e-6


def inputs(slots: int, live: list[int], seed: int = 0) -> list[NDArray[Any]]:
    """All inputs of the operator in its order, float64 but for ``live``."""
    random = np.random.default_rng(seed)
    qkv = (HEADS + 2 * KV_HEADS) * DIM
    angles = random.uniform(-3, 3, (slots, 1, DIM // 2))
    return [
        random.standard_normal((slots, HIDDEN)),
        random.uniform(0.5, 1.5, HIDDEN),
        random.standard_normal((1, HIDDEN, qkv)) / 7,
        random.standard_normal(qkv) / 7,
        random.standard_normal((1, HEADS * DIM, HIDDEN)) / 7,
        random.uniform(0.5, 1.5, HIDDEN),
        random.standard_normal((1, HIDDEN, 2 * INNER)) / 7,
        random.standard_normal((1, INNER, HIDDEN)) / 9,
        np.cos(angles),
        np.sin(angles),
        random.standard_normal((slots * KV_HEADS * LENGTH, DIM)),
        random.standard_normal((slots * KV_HEADS * LENGTH, DIM)),
        np.array(live, np.int32),
        np.array([EPS]),
    ]


def reference(arrays: list[NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The layer, its key rows and its value rows, in float64."""
    x, norm1, qkv_weight, qkv_bias, out, norm2, gate_up, down, cos, sin, key_rows, value_rows, live, _ = arrays
    slots = len(x)
    keys, values = (rows.copy().reshape(slots, KV_HEADS, LENGTH, DIM) for rows in (key_rows, value_rows))

    def rms(x: NDArray[Any], weight: NDArray[Any]) -> NDArray[Any]:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * weight

    qkv = (rms(x, norm1) @ qkv_weight[0] + qkv_bias).reshape(slots, -1, DIM)
    pairs = qkv[:, : HEADS + KV_HEADS, : DIM // 2] + 1j * qkv[:, : HEADS + KV_HEADS, DIM // 2 :]
    turned = pairs * (cos + 1j * sin)
    turned = np.concatenate([turned.real, turned.imag], -1)
    attended = np.zeros((slots, HEADS, DIM))
    for s in range(slots):
        keys[s, :, live[s]], values[s, :, live[s]] = turned[s, HEADS:], qkv[s, HEADS + KV_HEADS :]
        for h in range(HEADS):
            k, v = (t[s, h // (HEADS // KV_HEADS), : live[s] + 1] for t in (keys, values))
            p = np.exp(k @ turned[s, h] / DIM**0.5)
            attended[s, h] = p / p.sum() @ v
    x = x + attended.reshape(slots, -1) @ out[0]
    gate, up = np.split(rms(x, norm2) @ gate_up[0], 2, -1)
    return x + (gate / (1 + np.exp(-gate)) * up) @ down[0], keys.reshape(-1, DIM), values.reshape(-1, DIM)


def run(arrays: list[NDArray[Any]], compiled: bool = True) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    step = native.decoder_step()
    tensors = [Tensor(a if a.dtype == np.int32 else a.astype(np.float32)) for a in arrays]
    tensors[10], tensors[11] = (Parameter(tensors[i], name=f"rows{i}") for i in (10, 11))
    y = (ms.jit(step) if compiled else step)(*tensors)
    return y.asnumpy(), tensors[10].asnumpy(), tensors[11].asnumpy()


@pytest.mark.parametrize("compiled", [True, False], ids=["graph", "pynative"])
@pytest.mark.parametrize("live", [[0], [LENGTH - 1], [3, 0, 15, 7]])
def test_output_and_rows_match_float64(instruction_set: str, live: list[int], compiled: bool) -> None:
    arrays = inputs(len(live), live)
    for ours, expected in zip(run(arrays, compiled), reference(arrays), strict=True):
        np.testing.assert_allclose(ours, expected, atol=2e-5)


def test_a_slots_bits_do_not_depend_on_its_neighbours(instruction_set: str) -> None:
    live = [3, 0, 15, 7]
    together = run(inputs(4, live))
    for s in range(4):
        alone = inputs(4, live)
        for i in (0, 8, 9):
            alone[i] = alone[i][s : s + 1]
        for i in (10, 11):
            alone[i] = alone[i].reshape(4, -1, DIM)[s]
        alone[12] = alone[12][s : s + 1]
        y, keys, values = run(alone)
        assert y.tobytes() == together[0][s : s + 1].tobytes()
        assert keys.tobytes() == together[1].reshape(4, -1, DIM)[s].tobytes()
        assert values.tobytes() == together[2].reshape(4, -1, DIM)[s].tobytes()


def test_nan_and_infinity_in_dead_rows_do_not_leak(instruction_set: str) -> None:
    arrays = inputs(1, [4])
    expected = run(arrays)[0].tobytes()
    for i, poison in ((10, np.nan), (11, np.inf)):
        arrays[i].reshape(KV_HEADS, LENGTH, DIM)[:, 5:] = poison
    assert run(arrays)[0].tobytes() == expected


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda a: a.__setitem__(12, np.array([LENGTH], np.int32)), 5),
        (lambda a: a.__setitem__(12, np.array([-1], np.int32)), 5),
        (lambda a: a.__setitem__(7, a[7][:, :-1]), 4),
        (lambda a: a.__setitem__(3, a[3][None]), 2),
        (lambda a: a.__setitem__(12, np.array([1.0])), 3),
    ],
    ids=["full slot", "negative length", "other MLP width", "bias of rank 2", "float length"],
)
def test_inputs_that_do_not_fit_raise_and_write_nothing(change: Any, code: int) -> None:
    arrays = inputs(1, [4])
    change(arrays)
    with pytest.raises(RuntimeError, match=rf"function\(DecoderStep\) is {code}\."):
        run(arrays)
    assert code in native.FAULTS
