"""Preallocated key and value tensors of fixed shape."""

from typing import Any

import mindspore as ms
import ml_dtypes
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from numpy.typing import NDArray

from mindnlp_ocr.backends.base import Backend
from mindnlp_ocr.config import ModelConfig
from mindnlp_ocr.ops.host import on_host

Array = NDArray[Any]

DTYPES = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}


class KVSlots(nn.Cell):
    """Keys and values of every layer, [slots, kv_heads, max_length, head_dim], as the backend that reads them holds them.

    Rows past a slot's live length are stale: whoever reads masks them.

    Args:
        dtype: "fp32", "fp16" or "bf16"; a backend that reads one dtype alone holds that.
        shared: one tensor for all layers, which they overwrite in turn: enough for prompts that are run whole every time.
    """

    def __init__(
        self,
        config: ModelConfig,
        slots: int,
        max_length: int,
        backend: Backend,
        dtype: str = "fp32",
        shared: bool = False,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.shape = (slots, config.num_key_value_heads, max_length, config.head_dim)
        self.dtype = dtype
        layers = config.num_hidden_layers

        def tensors(name: str) -> ParameterTuple:
            held = [
                Parameter(
                    backend.slot_tensor(Tensor(np.zeros(self.shape, DTYPES[dtype]))), f"kv.{i}.{name}", requires_grad=False
                )
                for i in range(1 if shared else layers)
            ]
            return ParameterTuple(held * layers if shared else held)

        self.keys, self.values = tensors("keys"), tensors("values")

    @staticmethod
    def item_bytes(dtype: str) -> int:
        """Bytes of a number in "fp32", "fp16" or "bf16"."""
        return np.dtype(DTYPES[dtype]).itemsize

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        return np.dtype(DTYPES[self.dtype])

    @staticmethod
    def bytes_needed(config: ModelConfig, slots: int, max_length: int, item_bytes: int) -> int:
        """Bytes of all keys and values, of ``item_bytes`` a number."""
        numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
        return slots * max_length * numbers * item_bytes

    def read(self, slot: int, tokens: int) -> tuple[Array, Array]:
        """Copies of the first ``tokens`` keys and values of a slot, [layers, kv_heads, tokens, head_dim]."""
        keys, values = (
            np.stack([self._shaped(x.asnumpy())[slot, :, :tokens] for x in held]) for held in (self.keys, self.values)
        )
        return keys, values

    def write(self, slot: int, keys: Array, values: Array) -> None:
        """Put what :meth:`read` gave, of whatever slots, at the beginning of a slot."""
        for held, arrays in ((self.keys, keys), (self.values, values)):
            for parameter, array in zip(held, arrays, strict=True):
                with on_host(parameter) as rows:
                    self._shaped(rows)[slot, :, : array.shape[1]] = array

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copy the first ``tokens`` keys and values of a slot to another."""
        for parameter in (*self.keys, *self.values):
            with on_host(parameter) as memory:
                rows = self._shaped(memory)
                rows[target, :, :tokens] = rows[source, :, :tokens]

    def clear(self, slot: int) -> None:
        """Make all keys and values of a slot zero."""
        for parameter in (*self.keys, *self.values):
            with on_host(parameter) as memory:
                self._shaped(memory)[slot] = 0

    def _shaped(self, memory: Array) -> Array:
        """Its numbers in ``numpy_dtype`` and ``shape``: MindSpore has a bfloat16 of its own."""
        return memory.view(self.numpy_dtype).reshape(self.shape)


CLEAR = -1  # of ``tokens``


class CopySlot(nn.Cell):
    """:meth:`KVSlots.copy` and :meth:`KVSlots.clear` on the device, where slots are held as [slots, kv_heads, max_length,
    head_dim]: no key and no value passes through the host."""

    def __init__(self, kv: KVSlots) -> None:
        super().__init__(auto_prefix=False)
        self.held = ParameterTuple([*kv.keys, *kv.values])
        self.slot_shape = (1, *kv.shape[1:])
        self.write = ops.ScatterNdUpdate()

    def construct(self, source: Tensor, target: Tensor, tokens: Tensor) -> Tensor:
        """All int32 [1]. ``tokens`` of the source go to the beginning of the target; :data:`CLEAR` makes the target zero."""
        place = ops.range(0, self.slot_shape[2], 1).reshape(1, 1, self.slot_shape[2], 1)
        copied = ops.broadcast_to(place < tokens, self.slot_shape)
        cleared = ops.broadcast_to((tokens < 0).reshape(1, 1, 1, 1), self.slot_shape)
        for held in self.held:
            old, new = (ops.gather(held, target, 0).astype(ms.float32), ops.gather(held, source, 0).astype(ms.float32))
            rows = ops.select(cleared, ops.zeros_like(old), ops.select(copied, new, old))
            self.write(held, target.reshape(1, 1), rows.astype(held.dtype))
        return tokens
