"""Detection of support for flash attention."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

from mindnlp_ocr.ops.device import Device, missing_ascend

# Families whose documentation lists every attention operator that backends/ascend.py calls.
ASCEND_FAMILIES = ("ascend910b", "ascend910_93")
ASCEND_OPERATORS = ("PromptFlashAttention", "IncreFlashAttention", "FlashAttentionScore")
CUDA_NEEDED = (11, 6)
CAPABILITY_NEEDED = (8, 0)


def detect_flash_attention_support(device: str | Device) -> tuple[bool, str]:
    """Return whether flash attention can run on a device, and the reason: "Supported (...)" or "Not supported (...)"."""
    parsed = device if isinstance(device, Device) else Device.parse(device)
    check = {"CPU": _cpu, "Ascend": _ascend, "GPU": _cuda}[parsed.kind]
    supported, reason = check(parsed)
    return supported, f"{'Supported' if supported else 'Not supported'} ({reason})"


def cuda_state(device: Device) -> str:
    """Describe the CUDA support of MindSpore and of this machine."""
    return _cuda(device)[1]


def _cpu(_: Device) -> tuple[bool, str]:
    from mindnlp_ocr.ops import native  # imports MindSpore

    return native.available()


def _ascend(device: Device) -> tuple[bool, str]:
    if missing := missing_ascend():
        return False, f"no Ascend runtime: {missing}"
    try:
        soc = _soc_name(device.index)
    except (RuntimeError, ValueError, AttributeError) as error:
        return False, f"MindSpore cannot name the device {device}: {(str(error).splitlines() or [''])[0]}"
    family = next((family for family in ASCEND_FAMILIES if soc.lower().startswith(family)), None)
    if family is None:
        return False, f"the attention operators are not documented for {soc}, only for {', '.join(ASCEND_FAMILIES)}"
    root = os.environ.get("ASCEND_OPP_PATH") or str(Path(os.environ.get("ASCEND_HOME_PATH", "")) / "opp")
    lists = list(Path(root).glob(f"built-in/**/aic-{family}-ops-info*.json"))
    if not lists:
        return True, f"{soc}; CANN in {root} contains no list of operators to check; not verified on hardware"
    listed = "".join(path.read_text(encoding="utf-8", errors="replace") for path in lists)
    if absent := [name for name in ASCEND_OPERATORS if f'"{name}"' not in listed]:
        return False, f"{soc}, but the operator list of CANN in {root} lacks {', '.join(absent)}"
    return True, f"{soc}, CANN's {', '.join(ASCEND_OPERATORS)}; not verified on hardware by this project"


def _soc_name(index: int) -> str:
    import mindspore as ms

    return str(ms.hal.get_device_name(index, "Ascend"))


def _cuda(device: Device) -> tuple[bool, str]:
    version = importlib.metadata.version("mindspore")
    plugin = _cuda_plugin()
    if plugin is None:
        return False, f"MindSpore {version} has no CUDA plugin"
    if plugin < CUDA_NEEDED:
        return False, f"MindSpore's plugin is for CUDA {_dotted(plugin)}, but {_dotted(CUDA_NEEDED)} or newer is needed"
    capability = _cuda_capability(device.index)
    if capability is None:
        return False, f"nvidia-smi finds no device {device.index}"
    if capability < CAPABILITY_NEEDED:
        return False, f"the compute capability is {_dotted(capability)}, but {_dotted(CAPABILITY_NEEDED)} or newer is needed"
    return False, (
        f"CUDA {_dotted(plugin)} and compute capability {_dotted(capability)} suffice, but this engine has no CUDA kernels"
    )


def _cuda_plugin() -> tuple[int, int] | None:
    """Return the CUDA version of the newest plugin in MindSpore (for example lib/plugin/gpu11.6)."""
    spec = importlib.util.find_spec("mindspore")
    if spec is None or spec.origin is None:
        return None
    plugins = Path(spec.origin).parent.glob("lib/plugin/*gpu*")
    versions = [_version(match[0]) for path in plugins if (match := re.search(r"\d+\.\d+", path.name))]
    return max(versions, default=None)


def _cuda_capability(index: int) -> tuple[int, int] | None:
    if not shutil.which("nvidia-smi"):
        return None
    query = ["nvidia-smi", f"--id={index}", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        return _version(subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout.strip())
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
