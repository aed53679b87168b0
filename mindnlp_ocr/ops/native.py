"""Our CPU operators (kernels/cpu) as MindSpore AOT custom operators. Without the library, MindSpore's are used."""

import ctypes
import hashlib
import os
import re
import sysconfig
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import mindspore as ms
from mindspore import ops

from mindnlp_ocr.ops.cores import usable_cores
from mindnlp_ocr.ops.packing import panel_inputs
from mindnlp_ocr.weights.quantize import WeightDtype

LIBRARY = Path(__file__).with_name("_cpu" + str(sysconfig.get_config_var("EXT_SUFFIX")))
HEAD_DIMS = range(8, 257, 8)
INSTRUCTION_SETS = ("amx", "avx512vnni", "avx512", "avx2", "portable")

# Return codes of the operators (kernels/cpu/aot.h).
FAULTS = {
    1: "wrong number of inputs",
    2: "an input of wrong rank",
    3: "an input of wrong dtype",
    4: "inputs with inconsistent shapes",
    5: "the slot is full",
    6: "slots, lengths or token ids that are negative, out of order, repeated or beyond their tensor",
    7: "no memory left for the operator's own buffers",
    8: "internal error of the operator: please report it",
}


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(LIBRARY))
    library.InstructionSet.restype = ctypes.c_char_p
    # Read Python's copy of the environment, because `import mindspore` sets the variable to 1 in the process.
    library.UseThreads(int(os.environ.get("OMP_NUM_THREADS") or 0) or usable_cores())
    return library


def available() -> tuple[bool, str]:
    """Return whether the library exists and can be loaded, and the reason."""
    if not LIBRARY.exists():
        return False, f"{LIBRARY.name} is not built, so reading is several times slower: install with a C++ compiler"
    try:
        return True, f"{LIBRARY.name} runs {instruction_set()} instructions"
    except (OSError, AttributeError) as error:
        return False, f"{LIBRARY.name} cannot be loaded ({error}): install the package again"


def instruction_set() -> str:
    """Return the active instruction set."""
    name: str = _library().InstructionSet().decode()
    return name


@cache
def build() -> str:
    """Return the beginning of the library's hash, which identifies the build: other compilers may round differently."""
    return hashlib.sha256(LIBRARY.read_bytes()).hexdigest()[:16]


def use_instruction_set(name: str) -> None:
    """Use the code for one of :data:`INSTRUCTION_SETS`; the default is the best one that the processor supports.

    Raises:
        ValueError: the name is unknown, or the processor does not support the instruction set.
    """
    if _library().UseInstructionSet(name.encode()) != 0:
        raise ValueError(
            f"instruction set {name!r} is unknown or not supported by this processor: use one of {INSTRUCTION_SETS}"
        )


def instruction_sets() -> list[str]:
    """Return the instruction sets that this processor supports, the best last."""
    library, there = _library(), []
    running = library.InstructionSet()
    for name in reversed(INSTRUCTION_SETS):
        if library.UseInstructionSet(name.encode()) == 0:
            there.append(name)
    library.UseInstructionSet(running)
    return there


def use_threads(count: int) -> None:
    """Set the number of threads; 0: the number of cores that this process may use."""
    _library().UseThreads(count or usable_cores())


def threads() -> int | None:
    """Return the number of threads, or None without the library."""
    return int(_library().ThreadCount()) if available()[0] else None


def explain(error: BaseException) -> str:
    """Return the first line of MindSpore's error, or the description of the return code of one of our operators."""
    text = str(error).strip()
    if (match := re.search(r"function\((\w+)\) is (\d+)", text)) and int(match[2]) in FAULTS:
        return f"{match[1]}: {FAULTS[int(match[2])]}"
    return text.splitlines()[0] if text else type(error).__name__


Shape = Sequence[int]


def _custom(name: str, shape: Callable[..., Any], in_place: bool = False, dtype: Any = None) -> Any:
    """Create an operator. ``shape`` maps the input shapes to the output shapes; ``dtype`` defaults to that of the first
    input."""
    if LIBRARY.exists():
        _library()  # sets the number of threads
    custom = ops.Custom(f"{LIBRARY}:{name}", shape, lambda first, *_: dtype or first, func_type="aot")
    if in_place:
        custom.add_prim_attr("side_effect_mem", True)  # otherwise, MindSpore merges or removes calls
    return custom


def _like_first(first: Shape, *_: Shape) -> Shape:
    return first


def _as_first(check: Callable[..., None]) -> Callable[..., Shape]:
    """Return a shape function that checks the shapes at compile time and returns that of the first input."""

    def shape(first: Shape, *others: Shape) -> Shape:
        check(first, *others)
        return first

    return shape


def _check_heads(name: str, q: Shape, k: Shape, v: Shape) -> None:
    """Check q [..., heads, head_dim], k and v [..., kv_heads, head_dim]; the leading dimensions must be equal."""
    if len(q) != len(k) or list(k) != list(v) or list(q[:-2]) != list(k[:-2]) or q[-1] != k[-1]:
        raise ValueError(f"{name}: q {list(q)}, k {list(k)} and v {list(v)} have inconsistent shapes")
    if q[-2] % k[-2]:
        raise ValueError(f"{name}: {q[-2]} query heads are not a multiple of {k[-2]} key-value heads")
    if q[-1] not in HEAD_DIMS:
        raise ValueError(
            f"{name}: head_dim {q[-1]} is not a multiple of {HEAD_DIMS.step} up to {HEAD_DIMS[-1]}: use attn='eager'"
        )


def _check_vision(q: Shape, k: Shape, v: Shape, cu_seqlens: Shape) -> None:
    _check_heads("FlashVision", q, k, v)
    if len(cu_seqlens) != 1 or cu_seqlens[0] < 2:
        raise ValueError(f"FlashVision: cu_seqlens has shape {list(cu_seqlens)}: use [images + 1]")


def _check_decode(q: Shape, k: Shape, v: Shape, keys: Shape, values: Shape, slots: Shape, live: Shape, count: Shape) -> None:
    _check_heads("FlashDecode", q, k, v)
    if len(q) != 4:
        raise ValueError(f"FlashDecode: q {list(q)} has no segments: use [segments, tokens, heads, head_dim]")
    if len(keys) != 4 or list(keys) != list(values) or [keys[1], keys[3]] != [k[2], q[3]]:
        raise ValueError(f"FlashDecode: keys {list(keys)} and values {list(values)} are not slots of {k[2]} heads of {q[3]}")
    for name, shape in (("slots", slots), ("live", live), ("count", count)):
        if list(shape) != [q[0]]:
            raise ValueError(f"FlashDecode: {name} has shape {list(shape)}: use [{q[0]}], one per segment")


def flash_vision() -> Any:
    """Return the operator for attention within images.

    Inputs: q, k, v [patches, heads, head_dim] in float32, float16 or bfloat16; cu_seqlens int32 [images + 1].
    Output: [patches, heads, head_dim], zero for padding. Inconsistent shapes raise a ValueError when the graph is compiled.
    Inconsistent lengths raise a RuntimeError with a code of :data:`FAULTS`, which :func:`explain` describes.
    """
    return _custom("FlashVision", _as_first(_check_vision))


def flash_decode() -> Any:
    """Return the operator for causal attention of new tokens over their slots.

    Inputs: q [segments, tokens, heads, head_dim]; k, v [segments, tokens, kv_heads, head_dim]; keys and values [slots,
    kv_heads, max_length, head_dim], written in place, which may have another float dtype; slots, live, count int32
    [segments]. The output has the shape and dtype of q. Errors are those of :func:`flash_vision`.
    """
    return _custom("FlashDecode", _as_first(_check_decode), in_place=True)


def vision_block(gated: bool = False) -> Any:
    """Return the operator for one block of the vision tower, over packed images or windows.

    Inputs, float32 unless stated otherwise: x [patches, width]; cos and sin [patches, head_dim / 2]; cu_seqlens int32
    [images + 1]; eps [1]; LayerNorm weight and bias [width]; packed q/k/v weight and its bias [3 * width]; packed output
    weight and its bias; LayerNorm weight and bias; two packed weights of the MLP, each with its bias. If the MLP is
    ``gated``, norms are RMSNorm without a bias, and the first weight of the MLP is that of gate and up.
    Output: x after the block, zero for padding.
    """
    return _custom("GatedVisionBlock" if gated else "VisionBlock", _like_first)


def decoder_layer() -> Any:
    """Return the operator for one decoder layer for new tokens, whose keys and values are written to slots in place.

    Inputs, float32 unless stated otherwise: x [rows, hidden]; cos and sin [rows, head_dim / 2];
    slots, live, count int32 [segments]: the slot of a segment, the number of rows in it, and the number of new tokens;
    eps [1]; then the tensors of the layer: RMSNorm weight [hidden]; packed q/k/v weight and its bias [(heads + 2 kv_heads) *
    head_dim]; packed output weight; RMSNorm weight; packed gate/up and down weights; keys and values [slots, kv_heads,
    max_length, head_dim] of any float dtype. The rows of the segments are contiguous; the rows after them are padding.
    Output: x after the layer, zero for padding. Inconsistent inputs raise a RuntimeError with a code of :data:`FAULTS`.
    """
    return _custom("DecoderLayer", _like_first, in_place=True)


def greedy_decode(steps: int) -> Any:
    """Return the operator for up to ``steps`` decode steps of the whole language model, for each text until it ends.

    Inputs for n segments: token_ids, position_ids (equal on all axes), slots, live, count int32 [n]: the newest token of
    each text and its position, the slot, the number of rows in it, and the number of tokens to generate (0: the segment is
    idle); int32 [ends], tokens that end a text; cos and sin [positions, head_dim / 2]; the packed embedding; RMSNorm weight
    [hidden]; packed head and its bias [vocab]; eps [1]; then the inputs of :func:`decoder_layer` after eps, for every layer.
    Outputs: int32 [steps, n], the tokens, -1 if there is none; float32 [steps, n], their log-probabilities; float32 [n,
    vocab], the logits of the last tokens.
    """

    def shapes(token_ids: Shape, *others: Shape) -> tuple[Shape, Shape, Shape]:
        return [steps, token_ids[0]], [steps, token_ids[0]], [token_ids[0], others[10][0]]

    return _custom("GreedyDecode", shapes, in_place=True, dtype=(ms.int32, ms.float32, ms.float32))


def choose() -> Any:
    """Return the operator for the greedy choice: logits [rows, n] -> int32 [rows], the index of the largest of each row;
    float32 [rows], the logarithm of its probability."""
    return _custom("Choose", lambda logits: ([logits[0]], [logits[0]]), dtype=(ms.int32, ms.float32))


Product = Literal["Linear", "LinearAdd", "LinearQuickGelu", "LinearGelu", "LinearSiluGate"]


def linear(name: Product) -> Any:
    """Return the operator for a product: x [rows, in]; packed weight [panels, in, 32]; bias [out]; for LinearAdd a residual
    [rows, out]; live int32 [1] -> [rows, out], float32.

    Rows from ``live`` on are padding: they are not computed, and are zero in the output. The bias of LinearSiluGate contains
    those of gate and up, [2 * out].
    """
    parts = 2 if name == "LinearSiluGate" else 1
    return _custom(name, lambda x, weight, bias, *_: [x[0], bias[0] // parts])


def rms_norm() -> Any:
    """Return the operator for RMSNorm: x [rows, n], weight [n], eps [1] -> [rows, n], float32."""
    return _custom("RmsNorm", _like_first)


def layer_norm() -> Any:
    """Return the operator for LayerNorm: x [rows, n], weight and bias [n], eps [1] -> [rows, n], float32."""
    return _custom("LayerNorm", _like_first)


def embed(dtype: WeightDtype = "fp32") -> Any:
    """Return the operator for the embedding: int32 ids [tokens]; packed table -> [tokens, hidden], float32."""
    return _custom("Embed", lambda ids, table: [ids[0], panel_inputs(table[1], dtype)], dtype=ms.float32)
