"""Preallocated key and value tensors of fixed shape."""

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindnlp_ocr.models.config import Qwen2VLConfig
from mindnlp_ocr.ops.attention import write_rows


class KVSlots(nn.Cell):
    """Keys and values of every layer, float32, held as rows [slots * kv_heads * max_length, head_dim].

    One row is one token of one head, so that a write is a scatter of whole rows in place and the view
    [slots, kv_heads, max_length, head_dim] is a reshape. Token t of head h in slot s is row
    (s * kv_heads + h) * max_length + t. Rows past a slot's live length are stale: whoever reads masks them.
    """

    def __init__(self, config: Qwen2VLConfig, slots: int, max_length: int) -> None:
        super().__init__(auto_prefix=False)
        self.shape = (slots, config.num_key_value_heads, max_length, config.head_dim)
        heads = slots * config.num_key_value_heads
        zeros = np.zeros((heads * max_length, config.head_dim), np.float32)

        def tensors(name: str) -> ParameterTuple:
            layers = range(config.num_hidden_layers)
            return ParameterTuple([Parameter(Tensor(zeros), name=f"kv.{i}.{name}", requires_grad=False) for i in layers])

        self.key_rows, self.value_rows = tensors("keys"), tensors("values")
        self.head_starts = Tensor(np.arange(heads) * max_length, ms.int32)

    @staticmethod
    def bytes_needed(config: Qwen2VLConfig, slots: int, max_length: int) -> int:
        """Bytes of all keys and values; nothing else here is larger than a page."""
        return slots * max_length * config.kv_bytes_per_token

    def keys(self, layer: int) -> Tensor:
        return self.key_rows[layer].reshape(self.shape)

    def values(self, layer: int) -> Tensor:
        return self.value_rows[layer].reshape(self.shape)

    def prompt_rows(self, tokens: int) -> Tensor:
        """int32 [kv_heads * tokens]: rows of the first tokens of slot 0, heads outermost."""
        starts = self.head_starts[: self.shape[1]]
        return (starts.reshape(-1, 1) + ops.arange(tokens).astype(ms.int32)).reshape(-1)

    def next_rows(self, live: Tensor) -> Tensor:
        """int32 [slots * kv_heads]: the row behind the last live one, in every slot. live: int32 [slots]."""
        slots, kv_heads = self.shape[0], self.shape[1]
        return (self.head_starts.reshape(slots, kv_heads) + live.reshape(slots, 1)).reshape(-1)

    def write(self, layer: int, rows: Tensor, k: Tensor, v: Tensor) -> None:
        """Put k and v, [..., head_dim] in the order of ``rows``, in place."""
        head_dim = self.shape[3]
        write_rows(self.key_rows[layer], rows, k.reshape(-1, head_dim))
        write_rows(self.value_rows[layer], rows, v.reshape(-1, head_dim))
