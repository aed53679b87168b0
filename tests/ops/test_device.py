"""Tests of device names, and of errors if a device is not available."""

from pathlib import Path
from typing import Any

import mindspore as ms
import mindspore.device_context.ascend.op_precision as op_precision
import pytest

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
from mindnlp_ocr.ops import detect
from mindnlp_ocr.ops import device as devices
from mindnlp_ocr.ops.device import Device
from tests.conftest import case

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
    assert str(error.value) == f"device {text!r} is unknown: use cpu, npu:0 (or Ascend) or cuda"


def test_a_cpu_is_always_there() -> None:
    CPU.check()


def test_cuda_says_that_mindspore_has_none_what_is_here_and_what_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    for plugin, state in (
        (None, f"MindSpore {ms.__version__} has no CUDA plugin"),
        ((11, 1), "MindSpore's plugin is for CUDA 11.1, but 11.6 or newer is needed"),
    ):
        monkeypatch.setattr(detect, "_cuda_plugin", lambda plugin=plugin: plugin)
        with pytest.raises(SetupError) as error:
            Device("GPU").check()
        assert str(error.value) == (
            "device 'cuda': the MindSpore releases that this engine supports (2.7.2 to 2.10) have no CUDA backend on PyPI "
            f"({state}): use --device CPU or Ascend"
        )


@pytest.mark.skipif(any(Path("/dev").glob("davinci[0-9]*")), reason="this machine has an Ascend device")
def test_ascend_without_a_runtime_names_what_is_missing_and_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SetupError) as error:
        Device("Ascend", 1).check()
    remedy = (
        "install the Ascend driver and the CANN toolkit and run `source /usr/local/Ascend/ascend-toolkit/set_env.sh`, "
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


# How MindSpore is set up


@pytest.mark.parametrize(
    ("device", "message"),
    [
        (Device("CPU", memory_limit_gb=4), "memory_limit_gb is 4: MindSpore enforces no limit on a CPU: remove it"),
        (Device("Ascend", memory_limit_gb=0), "memory_limit_gb is 0: use more than 0"),
        (Device("Ascend", memory_limit_gb=float("nan")), "memory_limit_gb is nan: use more than 0"),
        (Device("CPU", jit_level="O2"), "jit_level is 'O2': use O0 or O1"),  # type: ignore[arg-type]
    ],
)
def test_settings_that_a_device_does_not_know_are_refused(device: Device, message: str) -> None:
    with pytest.raises(SetupError) as error:
        device.check()
    assert str(error.value).startswith(message)


def test_a_device_takes_its_settings_by_name_and_is_handed_back_as_it_is() -> None:
    device = Device.parse("npu:1", jit_level="O1", deterministic=True, memory_limit_gb=24)
    assert device == Device("Ascend", 1, "O1", True, 24)
    assert Device.parse(device) is device


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What MindSpore is given, on a machine that has an Ascend as far as we can see."""
    calls: list[Any] = []
    monkeypatch.setattr(devices, "missing_ascend", lambda: "")
    monkeypatch.setattr(devices, "_set", {})
    monkeypatch.setattr(ms, "set_device", lambda *device: calls.append(device))
    monkeypatch.setattr(ms, "set_deterministic", lambda value: calls.append(("deterministic", value)))
    monkeypatch.setattr(ms.runtime, "set_memory", lambda max_size: calls.append(("max_size", max_size)))
    monkeypatch.setattr(op_precision, "precision_mode", lambda mode: calls.append(("precision", mode)))
    return calls


def test_ascend_is_given_its_precision_and_what_was_asked_for_once_a_process(given: list[Any]) -> None:
    device = Device("Ascend", 1, deterministic=True, memory_limit_gb=24)
    device.activate()
    device.activate()
    Device("Ascend", 1).activate()  # asks for less than the process has
    once = [("precision", "must_keep_origin_dtype"), ("deterministic", True), ("max_size", "24.0GB")]
    assert given == [("Ascend", 1), *once, ("Ascend", 1), ("Ascend", 1)]
    with pytest.raises(SetupError) as error:
        Device("Ascend", 1, memory_limit_gb=16).activate()
    assert str(error.value) == "memory_limit_gb is 16, but was 24 before in this process: MindSpore supports only one value"


def test_ascend_is_given_nothing_that_was_not_asked_for(given: list[Any]) -> None:
    Device("Ascend").activate()
    assert given == [("Ascend", 0), ("precision", "must_keep_origin_dtype")]


def test_what_mindspore_refuses_is_said_with_its_own_reason(given: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: bool) -> None:
        raise RuntimeError("The 'mindspore.set_deterministic' can not be set repeatedly.\nmore")

    monkeypatch.setattr(ms, "set_deterministic", refuse)
    with pytest.raises(SetupError) as error:
        Device("Ascend", deterministic=True).activate()
    assert str(error.value) == (
        "deterministic is True: MindSpore does not accept it: The 'mindspore.set_deterministic' can not be set repeatedly.: "
        "leave it out"
    )


@pytest.mark.parametrize("attn", ["auto", pytest.param("eager", marks=pytest.mark.slow)])
def test_fused_graphs_give_the_same_tokens_on_a_cpu(attn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    levels, jit = [], ms.jit
    monkeypatch.setattr(ms, "jit", lambda cell, **options: levels.append(options) or jit(cell, **options))
    model = Qwen2VLModel(device=Device.parse("cpu", jit_level="O1"), attn=attn)
    golden = case("line_392x28")
    assert model.generate(golden["messages"]).token_ids == golden["token_ids"]
    assert levels == [{"jit_level": "O1"}] * 5


@pytest.mark.parametrize(("omp", "set_to"), [(None, [2]), ("1", [])])
def test_a_quota_rules_mindspores_threads_where_nobody_else_has_said_how_many(
    monkeypatch: pytest.MonkeyPatch, omp: str | None, set_to: list[int]
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(devices, "_set", {})
    monkeypatch.setattr(devices, "_use_threads", taken.append)
    monkeypatch.setattr(devices, "usable_cores", lambda: 2)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    if omp is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", omp)
    Device.parse("cpu").activate()
    assert taken == set_to
