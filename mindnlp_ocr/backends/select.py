"""Selection of the backend, the attention implementation and dtypes for a device."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.ops.detect import detect_flash_attention_support
from mindnlp_ocr.ops.device import Device
from mindnlp_ocr.weights.quantize import WEIGHT_DTYPES, WeightDtype

if TYPE_CHECKING:
    from mindnlp_ocr.backends.base import Backend
    from mindnlp_ocr.config import ModelConfig
    from mindnlp_ocr.ops.operators import Operators

Attention = Literal["auto", "eager", "flash"]
Implementation = Literal["eager", "flash"]


class AttentionChoice(NamedTuple):
    implementation: Implementation
    flash_supported: bool
    reason: str  # why flash attention is or is not supported


class Backends(NamedTuple):
    """The backends of the vision tower and the language model, which have different heads."""

    vision: "Backend"
    text: "Backend"


def choose_attention(
    device: Device, asked: Attention, head_dims: Sequence[int] = (), enable: bool = False, automatic: bool = True
) -> AttentionChoice:
    """Choose flash attention if it is supported, and either requested or chosen automatically; otherwise eager attention.

    Args:
        asked: with "auto", ``enable`` and ``automatic`` decide.
        head_dims: head sizes of the checkpoint.
        enable: ``CacheConfig.enable_flash_attention``; without ``automatic``, flash attention is then required.
        automatic: ``CacheConfig.auto_detect_flash_attention``: use flash attention if it is supported, on an NPU only with
            ``enable``.

    Raises:
        SetupError: flash attention is required but not available.
    """
    if asked not in ("auto", "eager", "flash"):
        raise SetupError(f"attention {asked!r} is unknown: use auto, eager or flash", code="attention_unknown")
    supported, reason = detect_flash_attention_support(device)
    if supported:
        from mindnlp_ocr.backends import ascend  # these import MindSpore
        from mindnlp_ocr.ops import native  # these import MindSpore

        taken = ascend.HEAD_DIMS if device.kind == "Ascend" else native.HEAD_DIMS
        if odd := [dim for dim in head_dims if dim not in taken]:
            supported = False
            reason = (
                f"Not supported (head_dim {odd[0]} of the checkpoint is not a multiple of {taken.step} up to {taken[-1]})"
            )
    forced = asked == "flash" or (asked == "auto" and enable and not automatic)
    if forced and not supported:
        raise SetupError(f"flash attention is required: {reason}: use --attn auto or eager", code="flash_unavailable")
    wanted = forced or (asked == "auto" and automatic and (enable or device.kind != "Ascend"))
    if wanted and not supported:
        warnings.warn(f"attention runs eager: {reason}", RuntimeWarning, stacklevel=2)
    return AttentionChoice("flash" if wanted and supported else "eager", supported, reason)


def kv_dtype_for(device: Device, implementation: Implementation, asked: str) -> str:
    """Return the dtype of the KV slots: as requested, but 16 bits for Ascend's flash operators.

    Raises:
        SetupError: MindSpore's own operators have no bfloat16 on a CPU.
    """
    if device.kind == "CPU" and implementation == "eager" and asked == "bf16":
        raise SetupError(
            "kv_dtype bf16 needs our operators on a CPU, and attention runs eager: use fp32 or fp16",
            code="kv_bf16_unsupported",
        )
    if device.kind == "Ascend" and implementation == "flash" and asked == "fp32":
        return "fp16"
    return asked


def attention_dtype_for(device: Device, implementation: Implementation, kv_dtype: str) -> str | None:
    """Return the dtype of attention if it is not float32: that of the slots for Ascend's flash operators, else None."""
    return kv_dtype if device.kind == "Ascend" and implementation == "flash" else None


def backends_for(
    device: Device, implementation: Implementation, config: "ModelConfig", dtype: str | None = None, fused: bool = True
) -> Backends:
    """Create the backends for both networks of a checkpoint.

    Args:
        dtype: from :func:`attention_dtype_for`.
        fused: whether one operator may run a whole layer of the language model.
    """
    vision, heads = config.vision, (config.num_attention_heads, config.num_key_value_heads)
    return Backends(
        vision=backend_for(device, implementation, vision.num_heads, vision.num_heads, vision.head_dim, dtype),
        text=backend_for(device, implementation, *heads, config.head_dim, dtype, fused),
    )


def backend_for(
    device: Device,
    implementation: Implementation,
    heads: int,
    kv_heads: int,
    head_dim: int,
    dtype: str | None = None,
    fused: bool = True,
) -> "Backend":
    """Create a backend for the given heads."""
    import mindspore as ms

    from mindnlp_ocr.backends.ascend import AscendBackend  # these import MindSpore
    from mindnlp_ocr.backends.cpu import CpuBackend
    from mindnlp_ocr.backends.eager import EagerBackend

    if implementation == "eager":
        return EagerBackend(heads, kv_heads, head_dim)
    if device.kind == "Ascend":
        return AscendBackend(heads, kv_heads, head_dim, ms.bfloat16 if dtype == "bf16" else ms.float16)
    return CpuBackend(heads, kv_heads, head_dim, fused)


def runs_ours(device: Device) -> bool:
    """Return whether our own products and norms are used on a device, instead of MindSpore's."""
    from mindnlp_ocr.ops import native

    return device.kind == "CPU" and native.available()[0]


def code_for(device: Device) -> str:
    """Return an identifier of the code that computes on a device. Results may be rounded differently by other code."""
    from mindnlp_ocr.ops import native

    return f"{native.instruction_set()} {native.build()}" if runs_ours(device) else str(device)


def weight_dtype_for(device: Device, asked: WeightDtype | Literal["auto"], stored: WeightDtype) -> WeightDtype:
    """Return the dtype of the weights: as requested, or the stored dtype with our operators; on Ascend, bf16 if they are
    stored in it, else fp16.

    Raises:
        SetupError: the dtype is unknown, or the device has no operators for it.
    """
    from mindnlp_ocr.ops import native

    if asked != "auto" and asked not in WEIGHT_DTYPES:
        raise SetupError(f"dtype {asked!r} is unknown: use auto, {', '.join(WEIGHT_DTYPES)}", code="dtype_unknown")
    if device.kind == "Ascend":
        if asked == "int8":
            raise SetupError(
                f"weights in int8 need our CPU operators (they do not run on {device}): use auto, fp16 or bf16",
                code="int8_needs_cpu",
            )
        return ("bf16" if stored == "bf16" else "fp16") if asked == "auto" else asked
    ours = runs_ours(device)
    if asked not in ("auto", "fp32") and not ours:
        raise SetupError(
            f"weights in {asked} need our CPU operators ({native.available()[1]}): use dtype auto or fp32",
            code="operators_missing",
        )
    return (stored if ours else "fp32") if asked == "auto" else asked


def operators_for(device: Device, dtype: WeightDtype = "fp32") -> "Operators":
    """Return the products and norms for a device and a dtype of weights."""
    from mindnlp_ocr.ops.half import HalfOperators
    from mindnlp_ocr.ops.operators import CpuOperators, Operators

    if runs_ours(device):
        return CpuOperators(dtype)
    return HalfOperators(dtype) if dtype in ("fp16", "bf16") else Operators()
