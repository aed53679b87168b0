"""tools/selftest.py: what an NPU user runs first must fail when something is wrong."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mindnlp_ocr.bench import attention as bench
from mindnlp_ocr.bench.attention import Case
from mindnlp_ocr.ops import attention, native

CASES = [
    Case("vision", 2, 2, 16, 40, (0, 7, 30)),
    Case("prefill", 4, 2, 16, 40, (33,)),
    Case("decode", 4, 2, 16, 64, (0, 63)),
]


@pytest.fixture
def selftest(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = Path(__file__).parent.parent / "tools" / "selftest.py"
    spec = importlib.util.spec_from_file_location("selftest", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "cases", lambda: CASES)
    monkeypatch.setattr("sys.argv", ["selftest.py"])
    return module


def test_every_path_of_this_machine_is_compared_and_agrees(selftest: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert selftest.main() == 0
    printed = capsys.readouterr().out
    sets = native.instruction_sets() if native.available()[0] else []
    total = len(CASES) * (1 + 3 * len(sets))
    assert f"{total} of {total} agree" in printed
    assert all(f"flash {name}" in printed for name in sets)
    assert printed.count("  ok\n") == total


def test_a_wrong_answer_a_nan_and_a_failure_are_counted_and_the_exit_status_is_1(
    selftest: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(attention.EagerAttention):
        def vision(self, q: Any, k: Any, v: Any, mask: Any) -> Any:
            return super().vision(q, k, v, mask) + 0.001

        def prefill(self, q: Any, k: Any, v: Any, mask: Any) -> Any:
            return super().prefill(q, k, v, mask) * float("nan")

        def decode(self, q: Any, k: Any, v: Any, keys: Any, values: Any, mask: Any) -> Any:
            raise ValueError("no such operator")

    monkeypatch.setattr(selftest, "paths", lambda device: [("wrong", ("float32",), "eager")])
    monkeypatch.setattr(bench, "attention_for", lambda device, implementation, *heads: Wrong(*heads))
    assert selftest.main() == 1
    printed = capsys.readouterr().out
    assert "0 of 3 agree" in printed
    assert printed.count("MISMATCH") == 2
    assert "FAILED: " in printed
    assert "no such operator" in printed


def test_a_device_that_is_not_there_is_said_and_the_exit_status_is_2(
    selftest: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["selftest.py", "--device", "tpu"])
    assert selftest.main() == 2
    assert capsys.readouterr().err == "error: device 'tpu' is unknown: give cpu, npu:0 (or Ascend) or cuda\n"


def test_the_case_and_its_float64_answer_agree_on_shapes() -> None:
    for case in CASES:
        inputs = [x.astype(np.float64) for x in case.inputs()]
        assert case.expected(inputs).shape == case.live_rows(inputs[0]).shape
