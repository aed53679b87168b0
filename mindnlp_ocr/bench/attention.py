"""One shape of attention work: its inputs, its answer in float64, and a graph that runs it on an implementation."""

from dataclasses import dataclass
from typing import Any, Literal

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn

from mindnlp_ocr.bench.reference import Array, attend_images, attend_prompt, attend_slots
from mindnlp_ocr.ops.attention import EagerAttention
from mindnlp_ocr.ops.device import Device
from mindnlp_ocr.ops.select import Implementation, attention_for

Work = Literal["vision", "prefill", "decode"]


@dataclass(frozen=True)
class Case:
    """A shape of work.

    Attributes:
        tokens: the bucket of patches or tokens, or the length of a slot.
        live: cu_seqlens of the images; [live] of a prompt; rows that each slot holds before its new token.
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
        return f"{shape}, {self.live[-1]} live" + (f", {len(self.live) - 1} images" if len(self.live) > 2 else "")

    @property
    def flops(self) -> float:
        """Multiplications and additions of the two products, over what is seen."""
        if self.work == "vision":
            pairs = sum((b - a) ** 2 for a, b in zip(self.live, self.live[1:], strict=False))
        elif self.work == "prefill":
            pairs = self.live[0] * (self.live[0] + 1) // 2
        else:
            pairs = sum(live + 1 for live in self.live)
        return 4.0 * pairs * self.heads * self.head_dim

    @property
    def kv_bytes(self) -> float:
        """float32 bytes of keys and values that a decode step reads."""
        return 8.0 * sum(live + 1 for live in self.live) * self.kv_heads * self.head_dim

    def inputs(self, seed: int = 0) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
        """q, k and v, and for a decode the slots' keys and values [slots, kv_heads, length, head_dim]; float32."""
        random = np.random.default_rng(seed)
        lead = (len(self.live), 1) if self.work == "decode" else (self.tokens,)
        shapes = [(*lead, heads, self.head_dim) for heads in (self.heads, self.kv_heads, self.kv_heads)]
        if self.work == "decode":
            shapes += [(len(self.live), self.kv_heads, self.tokens, self.head_dim)] * 2
        return [random.standard_normal(shape, np.float32) for shape in shapes]

    def expected(self, inputs: list[Array]) -> Array:
        """The live rows in float64."""
        q, k, v, *slots = inputs
        if self.work == "vision":
            return attend_images(q, k, v, self.live)
        if self.work == "prefill":
            return attend_prompt(q, k, v, self.live[0])
        return attend_slots(q, k, v, slots[0], slots[1], self.live, [1] * len(self.live))[0]

    def live_rows(self, answer: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return answer if self.work == "decode" else answer[: self.live[-1]]


class Layers(nn.Cell):
    """The same attention ``layers`` times, each answer the next one's query: a decode over keys and values of its own."""

    def __init__(self, case: Case, attention: EagerAttention, inputs: list[Tensor], layers: int, whole: bool) -> None:
        super().__init__(auto_prefix=False)
        self.attention = attention
        self.layers, self.whole = layers, whole
        self.tokens = case.tokens
        self.vision, self.decoding = case.work == "vision", case.work == "decode"
        self.lengths = Tensor(np.array(case.live, np.int32))
        if self.decoding:
            self.kv_shape = tuple(inputs[3].shape)
            self.ones = Tensor(np.ones(len(case.live), np.int32))
            rows = [attention.slot_tensor(x) for x in inputs[3:]]
            self.keys, self.values = (
                ParameterTuple([Parameter(x.copy(), name=f"{name}{i}") for i in range(layers)])
                for name, x in zip(("keys", "values"), rows, strict=True)
            )

    def construct(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        answer = self.run(q, k, v)
        return answer if self.whole else answer[-1:]

    def run(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.decoding:
            mask = self.attention.decode_mask(self.kv_shape, 1, self.lengths, self.ones)
            for i in range(self.layers):
                q = self.attention.decode(q, k, v, self.keys[i], self.values[i], mask)
            return q
        if self.vision:
            mask = self.attention.vision_mask(self.tokens, self.lengths)
            for _ in range(self.layers):
                q = self.attention.vision(q, k, v, mask)
            return q
        mask = self.attention.prefill_mask(self.tokens, self.lengths)
        for _ in range(self.layers):
            q = self.attention.prefill(q, k, v, mask)
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
    """A function without arguments that runs a case in one graph and waits for its answer, float32.

    ``whole`` False: for its last row alone, so that bringing the answer to the host is not what is timed.
    """
    attention = attention_for(device, implementation, case.heads, case.kv_heads, case.head_dim)
    tensors = [Tensor(x).astype(dtype) for x in inputs]
    graph = ms.jit(Layers(case, attention, tensors, layers, whole))

    def run() -> np.ndarray[Any, np.dtype[np.float32]]:
        answer: np.ndarray[Any, np.dtype[np.float32]] = graph(*tensors[:3]).astype(ms.float32).asnumpy()
        return answer

    return run
