"""Tests of the detection of flash attention, and of the choice of the attention implementation."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mindnlp_ocr.backends import select
from mindnlp_ocr.backends.select import choose_attention
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.ops import detect, native
from mindnlp_ocr.ops.detect import detect_flash_attention_support
from mindnlp_ocr.ops.device import Device

CPU, NPU = Device("CPU"), Device("Ascend")
ON, OFF = True, False


def supported(answer: bool) -> Callable[[Any], tuple[bool, str]]:
    return lambda _: (answer, "Supported (yes)" if answer else "Not supported (no)")


@pytest.fixture
def with_flash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "detect_flash_attention_support", supported(True))


@pytest.fixture
def without_flash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "detect_flash_attention_support", supported(False))


# CPU


@pytest.mark.skipif(not native.available()[0], reason=native.available()[1])
def test_a_cpu_with_the_library_names_its_instruction_set() -> None:
    assert detect_flash_attention_support("cpu") == (
        True,
        f"Supported ({native.LIBRARY.name} runs {_running()} instructions)",
    )


def _running() -> str:
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma", "f16c"} <= set(flags):
        if "avx512_vnni" not in flags:
            return "avx512"
        return "amx" if {"amx_tile", "amx_int8"} <= set(flags) else "avx512vnni"
    return "avx2" if {"avx2", "fma", "f16c"} <= set(flags) else "portable"


def test_a_cpu_without_a_library_or_with_a_broken_one_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library = tmp_path / "_cpu.so"
    monkeypatch.setattr(native, "LIBRARY", library)
    native._library.cache_clear()
    reason = "Not supported (_cpu.so is not built, so reading is several times slower: install with a C++ compiler)"
    assert detect_flash_attention_support(CPU) == (False, reason)
    library.write_bytes(b"not a library")
    broken, reason = detect_flash_attention_support(CPU)
    assert not broken
    assert reason.startswith("Not supported (_cpu.so cannot be loaded (")
    assert reason.endswith("): install the package again)")


# Ascend


@pytest.fixture
def npu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A 910B3 whose CANN lists all operators."""
    monkeypatch.setattr(detect, "missing_ascend", lambda: "")
    monkeypatch.setattr(detect, "_soc_name", lambda index: "Ascend910B3")
    monkeypatch.setenv("ASCEND_OPP_PATH", str(tmp_path))
    listed = tmp_path / "built-in" / "op_impl" / "ai_core" / "tbe" / "config" / "ascend910b" / "aic-ascend910b-ops-info.json"
    listed.parent.mkdir(parents=True)
    listed.write_text('{"PromptFlashAttention": {}, "IncreFlashAttention": {}, "FlashAttentionScore": {}}', encoding="utf-8")
    return listed


def test_an_npu_with_all_operators_is_supported_and_said_to_be_unverified(npu: Path) -> None:
    answer, reason = detect_flash_attention_support(NPU)
    assert answer
    assert reason.startswith("Supported (Ascend910B3, CANN's PromptFlashAttention, IncreFlashAttention, FlashAttentionScore")
    assert "not verified on hardware" in reason


def test_an_npu_without_runtime_soc_or_operator_says_which(npu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npu.write_text('{"IncreFlashAttention": {}, "FlashAttentionScore": {}}', encoding="utf-8")
    answer, reason = detect_flash_attention_support(NPU)
    assert not answer
    assert reason.endswith("lacks PromptFlashAttention)")
    npu.unlink()
    answer, reason = detect_flash_attention_support(NPU)
    assert answer
    assert "contains no list of operators to check; not verified on hardware" in reason
    monkeypatch.setattr(detect, "_soc_name", lambda index: "Ascend310P3")
    assert "not documented for Ascend310P3, only for ascend910b, ascend910_93" in detect_flash_attention_support(NPU)[1]

    def fails(index: int) -> str:
        raise RuntimeError("no device\nstack")

    monkeypatch.setattr(detect, "_soc_name", fails)
    assert detect_flash_attention_support(NPU) == (
        False,
        "Not supported (MindSpore cannot name the device npu:0: no device)",
    )
    monkeypatch.setattr(detect, "missing_ascend", lambda: "no /dev/davinci* device")
    reason = "Not supported (no Ascend runtime: no /dev/davinci* device)"
    assert detect_flash_attention_support("npu:0") == (False, reason)


# CUDA


@pytest.mark.parametrize(
    ("plugin", "capability", "reason"),
    [
        (None, None, r"MindSpore \S+ has no CUDA plugin"),
        ((11, 1), (9, 0), "MindSpore's plugin is for CUDA 11.1, but 11.6 or newer is needed"),
        ((11, 6), None, "nvidia-smi finds no device 0"),
        ((11, 6), (7, 5), "the compute capability is 7.5, but 8.0 or newer is needed"),
        ((11, 6), (8, 0), "CUDA 11.6 and compute capability 8.0 suffice, but this engine has no CUDA kernels"),
    ],
)
def test_cuda_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, plugin: Any, capability: Any, reason: str) -> None:
    monkeypatch.setattr(detect, "_cuda_plugin", lambda: plugin)
    monkeypatch.setattr(detect, "_cuda_capability", lambda index: capability)
    answer, text = detect_flash_attention_support("cuda")
    assert not answer
    assert re.fullmatch(rf"Not supported \({reason}\)", text)


def test_a_cuda_devices_capability_is_read_from_nvidia_smi(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"0": "8.6\n", "1": "", "2": "[N/A]\n"}

    def nvidia_smi(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, stdout=answers[command[1].removeprefix("--id=")])

    monkeypatch.setattr(detect.shutil, "which", lambda name: name)
    monkeypatch.setattr(detect.subprocess, "run", nvidia_smi)
    assert [detect._cuda_capability(index) for index in range(3)] == [(8, 6), None, None]


# The choice


@pytest.mark.parametrize(
    ("device", "asked", "enable", "automatic", "implementation"),
    [
        (CPU, "auto", OFF, ON, "flash"),
        (CPU, "auto", ON, ON, "flash"),
        (CPU, "auto", ON, OFF, "flash"),
        (CPU, "auto", OFF, OFF, "eager"),
        (CPU, "flash", OFF, OFF, "flash"),
        (CPU, "eager", ON, ON, "eager"),
        (NPU, "auto", OFF, ON, "eager"),
        (NPU, "auto", ON, ON, "flash"),
        (NPU, "auto", OFF, OFF, "eager"),
        (NPU, "flash", OFF, ON, "flash"),
    ],
)
@pytest.mark.usefixtures("with_flash")
def test_where_flash_is_supported_the_settings_decide_and_an_npu_waits_to_be_asked(
    device: Device, asked: Any, enable: bool, automatic: bool, implementation: str
) -> None:
    assert choose_attention(device, asked, (), enable, automatic) == (implementation, True, "Supported (yes)")


@pytest.mark.parametrize(("asked", "enable", "automatic"), [("flash", OFF, ON), ("flash", ON, OFF), ("auto", ON, OFF)])
@pytest.mark.usefixtures("without_flash")
def test_flash_that_is_demanded_and_not_there_is_an_error_with_the_reason(asked: Any, enable: bool, automatic: bool) -> None:
    with pytest.raises(SetupError) as error:
        choose_attention(CPU, asked, (), enable, automatic)
    assert str(error.value) == "flash attention is required: Not supported (no): use --attn auto or eager"


@pytest.mark.parametrize("enable", [ON, OFF])
@pytest.mark.usefixtures("without_flash")
def test_where_the_hardware_decides_eager_runs_by_itself_and_says_why(enable: bool) -> None:
    with pytest.warns(RuntimeWarning, match=r"attention runs eager: Not supported \(no\)"):
        choice = choose_attention(CPU, "auto", enable=enable)
    assert choice == ("eager", False, "Not supported (no)")


@pytest.mark.usefixtures("with_flash")
def test_a_checkpoint_with_an_odd_head_dim_runs_eager_and_names_it() -> None:
    with pytest.warns(RuntimeWarning, match="head_dim 20 of the checkpoint is not a multiple of 8 up to 256"):
        assert choose_attention(CPU, "auto", (64, 20)).implementation == "eager"
    with pytest.raises(SetupError, match="head_dim 264 of the checkpoint"):
        choose_attention(CPU, "flash", (264,))
    with pytest.raises(SetupError, match="head_dim 72 of the checkpoint is not a multiple of 16"):
        choose_attention(NPU, "flash", (72,))


def test_an_unknown_attention_is_refused() -> None:
    with pytest.raises(SetupError, match=r"^attention 'sdpa' is unknown: use auto, eager or flash$"):
        choose_attention(CPU, "sdpa")  # type: ignore[arg-type]
