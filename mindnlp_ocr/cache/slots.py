"""Preallocated key and value tensors of fixed shape."""

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn

from mindnlp_ocr.models.config import Qwen2VLConfig
from mindnlp_ocr.ops.attention import EagerAttention


class KVSlots(nn.Cell):
    """Keys and values of every layer, [slots, kv_heads, max_length, head_dim], as the attention that reads them holds them.

    On a CPU that is as float32 rows [slots * kv_heads * max_length, head_dim]: one row is one token of one head, so that a
    write is a scatter of whole rows in place. Rows past a slot's live length are stale: whoever reads masks them.
    """

    def __init__(self, config: Qwen2VLConfig, slots: int, max_length: int, attention: EagerAttention) -> None:
        super().__init__(auto_prefix=False)
        self.shape = (slots, config.num_key_value_heads, max_length, config.head_dim)
        zeros = np.zeros(self.shape, np.float32)

        def tensor(name: str) -> Parameter:
            return Parameter(attention.slot_tensor(Tensor(zeros)), name=name, requires_grad=False)

        def tensors(name: str) -> ParameterTuple:
            return ParameterTuple([tensor(f"kv.{i}.{name}") for i in range(config.num_hidden_layers)])

        self.key_rows, self.value_rows = tensors("keys"), tensors("values")

    @staticmethod
    def bytes_needed(config: Qwen2VLConfig, slots: int, max_length: int, item_bytes: int) -> int:
        """Bytes of all keys and values, of ``item_bytes`` a number."""
        numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
        return slots * max_length * numbers * item_bytes
