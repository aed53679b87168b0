"""Tests of 16-bit weights on MindSpore's operators: dtypes of weights, and errors."""

from typing import Any

import mindspore as ms
import ml_dtypes
import numpy as np
import pytest

from mindnlp_ocr.backends import select
from mindnlp_ocr.config import ModelConfig
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.models.qwen2vl import EMBEDDED
from mindnlp_ocr.ops.device import Device
from mindnlp_ocr.ops.half import HalfOperators
from mindnlp_ocr.weights.quantize import WEIGHT_DTYPES

CPU, NPU = Device("CPU"), Device("Ascend")


def test_on_ascend_weights_are_held_as_bf16_where_stored_so_and_else_as_fp16() -> None:
    held = {stored: select.weight_dtype_for(NPU, "auto", stored) for stored in WEIGHT_DTYPES}
    assert held == {"fp32": "fp16", "fp16": "fp16", "bf16": "bf16", "int8": "fp16"}
    for asked in ("fp32", "fp16", "bf16"):
        assert select.weight_dtype_for(NPU, asked, "bf16") == asked  # type: ignore[arg-type]
    with pytest.raises(SetupError) as error:
        select.weight_dtype_for(Device("Ascend", 1), "int8", "bf16")
    assert str(error.value) == "weights in int8 need our CPU operators (they do not run on npu:1): use auto, fp16 or bf16"


@pytest.mark.parametrize(("dtype", "stored"), [("fp16", np.float16), ("bf16", ml_dtypes.bfloat16), ("fp32", np.float32)])
def test_the_operators_of_ascend_pack_matrices_in_the_dtype_and_heads_in_float32(dtype: Any, stored: Any) -> None:
    operators = select.operators_for(NPU, dtype)
    weight = np.arange(6, dtype=np.float32).reshape(2, 3) / 7
    assert operators.weight_dtype == dtype
    assert operators.pack(weight).dtype == operators.pack_gate(weight, weight).dtype == stored
    assert operators.pack_table(weight).dtype == operators.for_logits().pack(weight).dtype == np.float32
    np.testing.assert_array_equal(operators.pack(weight)[0], weight.T.astype(stored))


def test_a_weight_beyond_float16_is_refused_when_it_is_packed() -> None:
    weight = np.array([[1, -7e4]], np.float32)
    with pytest.raises(SetupError) as error:
        HalfOperators("fp16").pack(weight)
    assert (
        str(error.value) == "a weight of the checkpoint is -70000, but the limit of float16 is 65504: use dtype bf16 or fp32"
    )
    assert HalfOperators("bf16").pack(weight)[0, 1, 0] == ml_dtypes.bfloat16(-7e4)


def test_ascends_flash_operators_take_the_dtype_of_the_slots() -> None:
    config = ModelConfig.from_folder(EMBEDDED)
    for kv_dtype, dtype in (("fp32", ms.float16), ("fp16", ms.float16), ("bf16", ms.bfloat16)):
        held = select.kv_dtype_for(NPU, "flash", kv_dtype)
        backends = select.backends_for(NPU, "flash", config, select.attention_dtype_for(NPU, "flash", held))
        assert backends.text.dtype == backends.vision.dtype == dtype
    assert select.attention_dtype_for(NPU, "eager", "bf16") is None
    assert select.attention_dtype_for(CPU, "flash", "bf16") is None
