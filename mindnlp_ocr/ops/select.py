"""Which implementation of attention runs, and why."""

from typing import Literal, NamedTuple

from mindnlp_ocr.cache.config import CacheConfig
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.ops.device import Device

Attention = Literal["auto", "eager", "flash"]
Implementation = Literal["eager", "flash"]


class AttentionChoice(NamedTuple):
    implementation: Implementation
    flash_supported: bool
    reason: str  # of flash_supported


def detect_flash_attention_support(device: str | Device) -> tuple[bool, str]:
    """Whether flash attention can run on a device, and why or why not."""
    parsed = device if isinstance(device, Device) else Device.parse(device)
    return False, f"Not supported (this release has no flash attention kernel for {parsed.kind} yet)"


def choose_attention(device: Device, asked: Attention, config: CacheConfig) -> AttentionChoice:
    """Flash where it is asked for and supported, else eager.

    Raises:
        SetupError: flash is demanded and cannot be had.
    """
    if asked not in ("auto", "eager", "flash"):
        raise SetupError(f"attention {asked!r} is unknown: give auto, eager or flash")
    supported, reason = detect_flash_attention_support(device)
    forced = asked == "flash" or (
        asked == "auto" and config.enable_flash_attention and not config.auto_detect_flash_attention
    )
    if forced and not supported:
        raise SetupError(f"flash attention is demanded: {reason}: use --attn auto or eager")
    return AttentionChoice("eager", supported, reason)


def choose_fused_decode(device: Device, asked: Attention) -> tuple[bool, str]:
    """Whether decode runs on our own CPU operator, and why; ``asked`` "eager" means MindSpore's operators alone."""
    if asked == "eager":
        return False, "eager is asked for"
    if device.kind != "CPU":
        return False, f"it is built for CPU, not {device.kind}"
    from mindnlp_ocr.ops import native  # imports MindSpore

    return native.available()
