"""Preallocated key and value tensors of fixed shape."""

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn

from mindnlp_ocr.models.config import Qwen2VLConfig


class KVSlots(nn.Cell):
    """Keys and values of every layer, float32, held as rows [slots * kv_heads * max_length, head_dim].

    One row is one token of one head, so that a write is a scatter of whole rows in place and the view
    [slots, kv_heads, max_length, head_dim] is a reshape. Token t of head h in slot s is row
    (s * kv_heads + h) * max_length + t. Rows past a slot's live length are stale: whoever reads masks them.
    """

    def __init__(self, config: Qwen2VLConfig, slots: int, max_length: int) -> None:
        super().__init__(auto_prefix=False)
        self.shape = (slots, config.num_key_value_heads, max_length, config.head_dim)
        zeros = np.zeros((slots * config.num_key_value_heads * max_length, config.head_dim), np.float32)

        def tensors(name: str) -> ParameterTuple:
            layers = range(config.num_hidden_layers)
            return ParameterTuple(
                [Parameter(Tensor(zeros, ms.float32), name=f"kv.{i}.{name}", requires_grad=False) for i in layers]
            )

        self.key_rows, self.value_rows = tensors("keys"), tensors("values")

    @staticmethod
    def bytes_needed(config: Qwen2VLConfig, slots: int, max_length: int) -> int:
        """Bytes of all keys and values."""
        return slots * max_length * config.kv_bytes_per_token
