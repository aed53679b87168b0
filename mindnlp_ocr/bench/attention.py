"""Test cases of attention: inputs, the expected result in float64, and a graph that runs an implementation."""

from dataclasses import dataclass
from typing import Any, Literal

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn

from mindnlp_ocr.backends.eager import EagerBackend
from mindnlp_ocr.backends.select import Implementation, backend_for
from mindnlp_ocr.bench.reference import Array, attend_images, attend_slots
from mindnlp_ocr.ops.device import Device

Work = Literal["vision", "prefill", "extend", "decode"]


@dataclass(frozen=True)
class Case:
    """A shape of work: packed images (vision), a prompt in an empty slot (prefill), the rest of a prompt whose beginning is
    in the slot (extend), or one token in each of several slots (decode).

    Attributes:
        tokens: the bucket of patches or new tokens; for decode, the length of a slot.
        live: for vision, cu_seqlens of the images; for prefill, [live]; for extend, [held, new]; for decode, the number of
            rows in each slot before its new token.
    """

    work: Work
    heads: int
    kv_heads: int
    head_dim: int
    tokens: int
    live: tuple[int, ...]

    def __str__(self) -> str:
        heads = f"{self.heads}" if self.heads == self.kv_heads else f"{self.heads}/{self.kv_heads}"
        shape = f"{self.tokens} x {heads} x {self.head_dim}"
        if self.work == "decode":
            return f"{len(self.live)} slots of {shape}, {max(self.live)} live"
        if self.work == "extend":
            return f"{shape}, {self.live[1]} after {self.live[0]}"
        return f"{shape}, {self.live[-1]} live" + (f", {len(self.live) - 1} images" if len(self.live) > 2 else "")

    @property
    def segments(self) -> list[tuple[int, int, int]]:
        """Return (slot, rows in it, new tokens) for each segment; not for vision."""
        if self.work == "decode":
            return [(slot, live, 1) for slot, live in enumerate(self.live)]
        return [(0, 0, self.live[0]) if self.work == "prefill" else (1, self.live[0], self.live[1])]

    @property
    def kv_shape(self) -> tuple[int, int, int, int]:
        """Return the shape of the slots. The rest of a prompt (extend) is written to the second of two slots."""
        length = self.tokens + (self.live[0] if self.work == "extend" else 0)
        return self.segments[-1][0] + 1, self.kv_heads, length, self.head_dim

    @property
    def flops(self) -> float:
        """Return the multiplications and additions of the two products, over the visible pairs."""
        if self.work == "vision":
            pairs = sum((b - a) ** 2 for a, b in zip(self.live, self.live[1:], strict=False))
        else:
            pairs = sum(new * live + new * (new + 1) // 2 for _, live, new in self.segments)
        return 4.0 * pairs * self.heads * self.head_dim

    @property
    def kv_bytes(self) -> float:
        """Return the bytes of the float32 keys and values that a decode step reads."""
        return 8.0 * sum(live + 1 for live in self.live) * self.kv_heads * self.head_dim

    def inputs(self, seed: int = 0) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
        """Return float32 q, k and v: [patches, heads, head_dim] for vision, and [segments, tokens, heads, head_dim] for all
        other work, which also has the slots' keys and values of shape ``kv_shape``."""
        random = np.random.default_rng(seed)
        lead = (self.tokens,) if self.work == "vision" else (len(self.segments), 1 if self.work == "decode" else self.tokens)
        shapes: list[tuple[int, ...]] = [
            (*lead, heads, self.head_dim) for heads in (self.heads, self.kv_heads, self.kv_heads)
        ]
        if self.work != "vision":
            shapes += [self.kv_shape] * 2
        return [random.standard_normal(shape, np.float32) for shape in shapes]

    def expected(self, inputs: list[Array]) -> Array:
        """Return the expected live rows in float64."""
        q, k, v, *held = inputs
        if self.work == "vision":
            return attend_images(q, k, v, self.live)
        slots, live, count = (list(column) for column in zip(*self.segments, strict=True))
        return self.live_rows(attend_slots(q, k, v, held[0][slots], held[1][slots], live, count)[0])

    def live_rows(self, answer: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the rows of an answer without padding, [rows, heads, head_dim]."""
        if self.work == "vision":
            return answer[: self.live[-1]]
        return np.concatenate([answer[i, :new] for i, (_, _, new) in enumerate(self.segments)])


class Layers(nn.Cell):
    """Runs the same attention ``layers`` times, each with its own keys and values. Each answer is the next query."""

    def __init__(self, case: Case, attention: EagerBackend, inputs: list[Tensor], layers: int, whole: bool) -> None:
        super().__init__(auto_prefix=False)
        self.attention = attention
        self.layers, self.whole = layers, whole
        self.tokens = case.tokens
        self.vision = case.work == "vision"
        if self.vision:
            self.cu_seqlens = Tensor(np.array(case.live, np.int32))
        else:
            self.kv_shape = case.kv_shape
            self.slots, self.live, self.count = (
                Tensor(np.array(column, np.int32)) for column in zip(*case.segments, strict=True)
            )
            rows = [attention.slot_tensor(x) for x in inputs[3:]]
            self.keys, self.values = (
                ParameterTuple([Parameter(x.copy(), name=f"{name}{i}", requires_grad=False) for i in range(layers)])
                for name, x in zip(("keys", "values"), rows, strict=True)
            )

    def construct(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        answer = self.run(q, k, v)
        return answer if self.whole else answer.reshape(-1, answer.shape[-2], answer.shape[-1])[-1:]

    def run(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.vision:
            mask = self.attention.vision_mask(self.tokens, self.cu_seqlens)
            for _ in range(self.layers):
                q = self.attention.vision(q, k, v, mask)
            return q
        mask = self.attention.extend_mask(self.kv_shape, q.shape[1], (self.slots, self.live, self.count))
        for i in range(self.layers):
            q = self.attention.extend(q, k, v, self.keys[i], self.values[i], mask)
        return q


def compiled(
    case: Case,
    device: Device,
    implementation: Implementation,
    inputs: list[Any],
    dtype: Any = ms.float32,
    layers: int = 1,
    whole: bool = True,
) -> Any:
    """Return a function without arguments that runs a case in one graph and returns the answer in float32.

    If ``whole`` is False, only the last row is returned, so that times do not include the copy of the answer to the host.
    """
    attention = backend_for(device, implementation, case.heads, case.kv_heads, case.head_dim)
    tensors = [Tensor(x).astype(dtype) for x in inputs]
    graph = ms.jit(Layers(case, attention, tensors, layers, whole))

    def run() -> np.ndarray[Any, np.dtype[np.float32]]:
        answer: np.ndarray[Any, np.dtype[np.float32]] = graph(*tensors[:3]).astype(ms.float32).asnumpy()
        return answer

    return run
