"""Our own CPU operators (kernels/cpu), as MindSpore AOT custom ops. Without the built library all runs eager."""

import ctypes
import sysconfig
from pathlib import Path

from mindspore import ops

LIBRARY = Path(__file__).with_name("_cpu" + str(sysconfig.get_config_var("EXT_SUFFIX")))

# What kernels/cpu/decoder_step.cc returns.
FAULTS = {1: "wrong number of inputs", 2: "wrong rank", 3: "wrong dtype", 4: "wrong shape", 5: "the slot is full"}


def available() -> tuple[bool, str]:
    """Whether the library is there and can be loaded, and why or why not."""
    if not LIBRARY.exists():
        return False, f"{LIBRARY.name} is not built: install with a C++ compiler to get it"
    try:
        ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        return False, f"{LIBRARY.name} cannot be loaded ({error})"
    return True, f"{LIBRARY.name} is loaded"


def decoder_step() -> ops.Custom:
    """One decoder layer for one new token in every slot; writes the slots in place.

    Inputs, float32 unless said otherwise: x [slots, hidden]; RMSNorm weight [hidden]; packed q/k/v weight [1, hidden,
    (heads + 2 kv_heads) * head_dim] and bias; packed output weight; RMSNorm weight; packed gate/up and down weights; cos
    and sin [slots, any, head_dim / 2]; key and value rows [slots * kv_heads * max_length, head_dim]; live int32 [slots],
    rows that each slot holds before this token; eps [1]. Output: x after the layer. A slot without room, or inputs that
    do not fit together, raise a RuntimeError with the code of :data:`FAULTS`.
    """
    step = ops.Custom(f"{LIBRARY}:DecoderStep", lambda x, *_: x, lambda x, *_: x, func_type="aot")
    step.add_prim_attr("side_effect_mem", True)
    return step
