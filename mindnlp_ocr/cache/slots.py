"""KV slots: preallocated key and value tensors of fixed shape."""

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
    """Keys and values of every layer, [slots, kv_heads, max_length, head_dim], in the layout of the backend.

    Rows past the live length of a slot are stale and must be masked.

    Args:
        dtype: "fp32", "fp16" or "bf16"; a backend that supports only one dtype uses that one.
        shared: allocate one tensor that all layers overwrite in turn. This suffices if the whole sequence is run for every
            token (no KV cache).
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
        """Return the size of an element of "fp32", "fp16" or "bf16" in bytes."""
        return np.dtype(DTYPES[dtype]).itemsize

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        return np.dtype(DTYPES[self.dtype])

    @staticmethod
    def bytes_needed(config: ModelConfig, slots: int, max_length: int, item_bytes: int) -> int:
        """Return the size of all keys and values in bytes, with ``item_bytes`` for each element."""
        numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
        return slots * max_length * numbers * item_bytes

    def read(self, slot: int, tokens: int) -> tuple[Array, Array]:
        """Return copies of the first ``tokens`` keys and values of a slot, [layers, kv_heads, tokens, head_dim]."""
        keys, values = (
            np.stack([self._shaped(x.asnumpy())[slot, :, :tokens] for x in held]) for held in (self.keys, self.values)
        )
        return keys, values

    def write(self, slot: int, keys: Array, values: Array) -> None:
        """Write keys and values that :meth:`read` returned to the beginning of a slot."""
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
        """Set all keys and values of a slot to zero."""
        for parameter in (*self.keys, *self.values):
            with on_host(parameter) as memory:
                self._shaped(memory)[slot] = 0

    def _shaped(self, memory: Array) -> Array:
        """View memory with ``numpy_dtype`` and ``shape``; MindSpore has its own bfloat16 type."""
        return memory.view(self.numpy_dtype).reshape(self.shape)


CLEAR = -1  # value of ``tokens`` that clears the target


class CopySlot(nn.Cell):
    """:meth:`KVSlots.copy` and :meth:`KVSlots.clear` on the device, without a transfer to the host.

    The slots must be stored as [slots, kv_heads, max_length, head_dim].
    """

    def __init__(self, kv: KVSlots) -> None:
        super().__init__(auto_prefix=False)
        self.held = ParameterTuple([*kv.keys, *kv.values])
        self.slot_shape = (1, *kv.shape[1:])
        self.write = ops.ScatterNdUpdate()

    def construct(self, source: Tensor, target: Tensor, tokens: Tensor) -> Tensor:
        """Copy the first ``tokens`` tokens of a slot to another, or clear it if ``tokens`` is :data:`CLEAR`. All int32
        [1]."""
        place = ops.range(0, self.slot_shape[2], 1).reshape(1, 1, self.slot_shape[2], 1)
        copied = ops.broadcast_to(place < tokens, self.slot_shape)
        cleared = ops.broadcast_to((tokens < 0).reshape(1, 1, 1, 1), self.slot_shape)
        for held in self.held:
            old, new = (ops.gather(held, target, 0).astype(ms.float32), ops.gather(held, source, 0).astype(ms.float32))
            rows = ops.select(cleared, ops.zeros_like(old), ops.select(copied, new, old))
            self.write(held, target.reshape(1, 1), rows.astype(held.dtype))
        return tokens
