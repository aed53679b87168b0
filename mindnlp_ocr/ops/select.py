"""Which implementation of attention runs, and why."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from mindnlp_ocr.cache.config import CacheConfig
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.ops.detect import detect_flash_attention_support
from mindnlp_ocr.ops.device import Device

if TYPE_CHECKING:
    from mindnlp_ocr.ops.attention import EagerAttention

Attention = Literal["auto", "eager", "flash"]
Implementation = Literal["eager", "flash"]
MAX_HEAD_DIM = 256


class AttentionChoice(NamedTuple):
    implementation: Implementation
    flash_supported: bool
    reason: str  # of flash_supported


def choose_attention(
    device: Device, asked: Attention, config: CacheConfig, head_dims: Sequence[int] = ()
) -> AttentionChoice:
    """Flash where it is supported and asked for, or where the hardware may decide; else eager.

    ``asked`` "auto" leaves it to the configuration: with ``auto_detect_flash_attention`` the hardware decides, but on an NPU
    flash runs only with ``enable_flash_attention``; without, ``enable_flash_attention`` is a demand.

    Args:
        head_dims: of the checkpoint.

    Raises:
        SetupError: flash is demanded and cannot be had.
    """
    if asked not in ("auto", "eager", "flash"):
        raise SetupError(f"attention {asked!r} is unknown: give auto, eager or flash")
    supported, reason = detect_flash_attention_support(device)
    multiple = 16 if device.kind == "Ascend" else 8
    if supported and (odd := [dim for dim in head_dims if dim % multiple or dim > MAX_HEAD_DIM]):
        supported = False
        reason = f"Not supported (head_dim {odd[0]} of the checkpoint is no multiple of {multiple} up to {MAX_HEAD_DIM})"
    automatic = config.auto_detect_flash_attention
    forced = asked == "flash" or (asked == "auto" and config.enable_flash_attention and not automatic)
    if forced and not supported:
        raise SetupError(f"flash attention is demanded: {reason}: use --attn auto or eager")
    wanted = forced or (asked == "auto" and automatic and (config.enable_flash_attention or device.kind != "Ascend"))
    if wanted and not supported:
        warnings.warn(f"attention runs eager: {reason}", RuntimeWarning, stacklevel=2)
    return AttentionChoice("flash" if wanted and supported else "eager", supported, reason)


def attention_for(device: Device, implementation: Implementation) -> "EagerAttention":
    """The operators of a choice."""
    from mindnlp_ocr.ops.attention import EagerAttention  # these import MindSpore

    if implementation == "eager":
        return EagerAttention()
    from mindnlp_ocr.ops.flash import FlashAttention

    return FlashAttention()
