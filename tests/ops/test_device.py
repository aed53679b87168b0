"""Devices by name, and what is missing when they cannot be had."""

from pathlib import Path
from typing import Any

import pytest

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.ops.device import Device

CPU = Device("CPU")


@pytest.mark.parametrize(
    ("text", "device", "shown"),
    [
        ("cpu", Device("CPU"), "cpu"),
        ("CPU", Device("CPU"), "cpu"),
        (" cpu\n", Device("CPU"), "cpu"),
        ("Ascend", Device("Ascend"), "npu:0"),
        ("ascend:2", Device("Ascend", 2), "npu:2"),
        ("npu", Device("Ascend"), "npu:0"),
        ("npu:0", Device("Ascend"), "npu:0"),
        ("NPU:7", Device("Ascend", 7), "npu:7"),
        ("cuda", Device("GPU"), "cuda:0"),
        ("cuda:1", Device("GPU", 1), "cuda:1"),
        ("GPU", Device("GPU"), "cuda:0"),
    ],
)
def test_every_form_of_a_devices_name_is_read(text: str, device: Device, shown: str) -> None:
    assert Device.parse(text) == device
    assert str(device) == shown


@pytest.mark.parametrize("text", ["", "tpu", "npu:", "npu:-1", "npu:a", "npu:0:1", "npu 0", "cpu,npu", ":0", "0", None, 0])
def test_any_other_name_is_refused_with_the_names_there_are(text: Any) -> None:
    with pytest.raises(SetupError) as error:
        Device.parse(text)
    assert str(error.value) == f"device {text!r} is unknown: give cpu, npu:0 (or Ascend) or cuda"


def test_a_cpu_is_always_there() -> None:
    CPU.check()


def test_cuda_says_that_mindspore_has_none_and_what_to_use() -> None:
    with pytest.raises(SetupError, match=r"^device 'cuda.*no CUDA backend.*use --device CPU or Ascend$"):
        Device("GPU").check()


@pytest.mark.skipif(any(Path("/dev").glob("davinci[0-9]*")), reason="this machine has an Ascend device")
def test_ascend_without_a_runtime_names_what_is_missing_and_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SetupError) as error:
        Device("Ascend", 1).check()
    remedy = (
        "install the Ascend driver and the CANN toolkit, run `source /usr/local/Ascend/ascend-toolkit/set_env.sh`, "
        "or use --device CPU"
    )
    unset = "ASCEND_HOME_PATH and ASCEND_TOOLKIT_HOME are not set"
    assert str(error.value) == f"device 'npu:1': no Ascend runtime here ({unset}, no /dev/davinci* device): {remedy}"
    monkeypatch.setenv("ASCEND_HOME_PATH", "somewhere")
    with pytest.raises(SetupError) as error:
        Device("Ascend", 1).check()
    assert str(error.value) == f"device 'npu:1': no Ascend runtime here (no /dev/davinci* device): {remedy}"
    with pytest.raises(SetupError, match="no Ascend runtime here"):
        Device("Ascend").activate()
