"""Our own CPU operators (kernels/cpu), as MindSpore AOT custom ops. Without the built library all runs eager."""

import ctypes
import re
import sysconfig
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from mindspore import ops

LIBRARY = Path(__file__).with_name("_cpu" + str(sysconfig.get_config_var("EXT_SUFFIX")))
HEAD_DIMS = range(8, 257, 8)
INSTRUCTION_SETS = ("avx512", "avx2", "portable")

# What the operators return (kernels/cpu/aot.h).
FAULTS = {
    1: "wrong number of inputs",
    2: "an input of wrong rank",
    3: "an input of wrong dtype",
    4: "inputs whose shapes do not fit together",
    5: "the slot is full",
    6: "lengths that are negative, descend or exceed their tensor",
    7: "no memory left for the operator's own buffers",
}


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(LIBRARY))
    library.InstructionSet.restype = ctypes.c_char_p
    return library


def available() -> tuple[bool, str]:
    """Whether the library is there and can be loaded, and why or why not."""
    if not LIBRARY.exists():
        return False, f"{LIBRARY.name} is not built: install with a C++ compiler to get it"
    try:
        return True, f"{LIBRARY.name} runs {_library().InstructionSet().decode()} instructions"
    except (OSError, AttributeError) as error:
        return False, f"{LIBRARY.name} cannot be loaded ({error}): install the package again"


def use_instruction_set(name: str) -> None:
    """Run "avx512", "avx2" or "portable" code from now on; by default the best that the processor has.

    Raises:
        ValueError: the name is unknown or the processor lacks it.
    """
    if _library().UseInstructionSet(name.encode()) != 0:
        raise ValueError(f"instruction set {name!r} is unknown or not in this processor: give one of {INSTRUCTION_SETS}")


def instruction_sets() -> list[str]:
    """Those that this processor has, the best last."""
    library, there = _library(), []
    running = library.InstructionSet()
    for name in reversed(INSTRUCTION_SETS):
        if library.UseInstructionSet(name.encode()) == 0:
            there.append(name)
    library.UseInstructionSet(running)
    return there


def use_threads(count: int) -> None:
    """Run on so many threads from now on; 0: as OpenMP says (OMP_NUM_THREADS, or the cores)."""
    _library().UseThreads(count)


def explain(error: BaseException) -> str:
    """The first line of what MindSpore raised; the code of an operator of ours in words."""
    text = str(error).strip()
    if (match := re.search(r"function\((\w+)\) is (\d+)", text)) and int(match[2]) in FAULTS:
        return f"{match[1]}: {FAULTS[int(match[2])]}"
    return text.splitlines()[0] if text else type(error).__name__


def _custom(name: str, check: Callable[..., None] | None = None, in_place: bool = False) -> Any:
    """An operator whose output is like its first input. ``check`` sees the shapes when a graph is compiled."""

    def shape(first: Sequence[int], *others: Sequence[int]) -> Sequence[int]:
        if check is not None:
            check(first, *others)
        return first

    custom = ops.Custom(f"{LIBRARY}:{name}", shape, lambda first, *_: first, func_type="aot")
    if in_place:
        custom.add_prim_attr("side_effect_mem", True)
    return custom


def _check_heads(name: str, q: Sequence[int], k: Sequence[int], v: Sequence[int]) -> None:
    """q [..., heads, head_dim], k and v [..., kv_heads, head_dim], else alike."""
    if len(q) != len(k) or list(k) != list(v) or list(q[:-2]) != list(k[:-2]) or q[-1] != k[-1]:
        raise ValueError(f"{name}: q {list(q)}, k {list(k)} and v {list(v)} do not fit together")
    if q[-2] % k[-2]:
        raise ValueError(f"{name}: {q[-2]} query heads are no multiple of {k[-2]} key-value heads")
    if q[-1] not in HEAD_DIMS:
        raise ValueError(
            f"{name}: head_dim {q[-1]} is no multiple of {HEAD_DIMS.step} up to {HEAD_DIMS[-1]}: use attn='eager'"
        )


def _check_vision(q: Sequence[int], k: Sequence[int], v: Sequence[int], cu_seqlens: Sequence[int]) -> None:
    _check_heads("FlashVision", q, k, v)
    if len(cu_seqlens) != 1 or cu_seqlens[0] < 2:
        raise ValueError(f"FlashVision: cu_seqlens has shape {list(cu_seqlens)}: give [images + 1]")


def _check_prefill(q: Sequence[int], k: Sequence[int], v: Sequence[int], live: Sequence[int]) -> None:
    _check_heads("FlashPrefill", q, k, v)
    if list(live) != [1]:
        raise ValueError(f"FlashPrefill: live has shape {list(live)}: give [1]")


def _check_decode(
    q: Sequence[int],
    k: Sequence[int],
    v: Sequence[int],
    keys: Sequence[int],
    values: Sequence[int],
    live: Sequence[int],
    count: Sequence[int],
) -> None:
    _check_heads("FlashDecode", q, k, v)
    if list(keys) != list(values) or keys[-1] != q[-1] or keys[0] % (q[0] * k[2]):
        raise ValueError(
            f"FlashDecode: key rows {list(keys)} and value rows {list(values)} do not hold {q[0]} slots of {k[2]} heads "
            f"of {q[-1]}"
        )
    if list(live) != [q[0]] or list(count) != [q[0]]:
        raise ValueError(f"FlashDecode: live {list(live)} and count {list(count)} must be [{q[0]}], one a slot")


def flash_vision() -> Any:
    """q, k, v [patches, heads, head_dim]; cu_seqlens int32 [images + 1] -> [patches, heads, head_dim], padding zero.

    float32, float16 or bfloat16 alike. Shapes that do not fit raise a ValueError when the graph is compiled; lengths that do
    not, a RuntimeError with the code of :data:`FAULTS`, which :func:`explain` puts into words.
    """
    return _custom("FlashVision", _check_vision)


def flash_prefill() -> Any:
    """q [tokens, heads, head_dim]; k, v [tokens, kv_heads, head_dim]; live int32 [1] -> as q. Errors as above."""
    return _custom("FlashPrefill", _check_prefill)


def flash_decode() -> Any:
    """q [slots, tokens, heads, head_dim]; k, v [slots, tokens, kv_heads, head_dim]; key and value rows [slots * kv_heads *
    max_length, head_dim], written in place; live, count int32 [slots] -> as q. The rows may have a float dtype of their own.
    """
    return _custom("FlashDecode", _check_decode, in_place=True)


def decoder_step() -> Any:
    """One decoder layer for one new token in every slot; writes the slots in place.

    Inputs, float32 unless said otherwise: x [slots, hidden]; RMSNorm weight [hidden]; packed q/k/v weight [1, hidden,
    (heads + 2 kv_heads) * head_dim] and bias; packed output weight; RMSNorm weight; packed gate/up and down weights; cos
    and sin [slots, any, head_dim / 2]; key and value rows [slots * kv_heads * max_length, head_dim]; live int32 [slots],
    rows that each slot holds before this token; eps [1]. Output: x after the layer. A slot without room, or inputs that
    do not fit together, raise a RuntimeError with the code of :data:`FAULTS`.
    """
    return _custom("DecoderStep", in_place=True)
