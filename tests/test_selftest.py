"""Tests that ``mindnlp-ocr selftest``, which NPU users run first, fails if something is wrong."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mindnlp_ocr.backends import eager
from mindnlp_ocr.bench import attention as bench
from mindnlp_ocr.bench.attention import Case
from mindnlp_ocr.bench.products import ProductCase
from mindnlp_ocr.commands import selftest as command
from mindnlp_ocr.ops import native
from mindnlp_ocr.ops.operators import Operators

CASES = [
    Case("vision", 2, 2, 16, 40, (0, 7, 30)),
    Case("prefill", 4, 2, 16, 40, (33,)),
    Case("extend", 4, 2, 16, 40, (20, 33)),
    Case("decode", 4, 2, 16, 64, (0, 63)),
]
PRODUCTS = [ProductCase("gate", 5, 48, 70), ProductCase("embed", 3, 20, 33), ProductCase("layer_norm", 4, 30)]


@pytest.fixture
def selftest(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(command, "cases", lambda: CASES)
    monkeypatch.setattr(command, "products", lambda: PRODUCTS)
    monkeypatch.setattr("sys.argv", ["selftest.py"])
    return command


def test_every_path_of_this_machine_is_compared_and_agrees(selftest: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert selftest.main() == 0
    printed = capsys.readouterr().out
    sets = native.instruction_sets() if native.available()[0] else []
    total = len(CASES) * (1 + 3 * len(sets)) + len(PRODUCTS) * (1 + len(sets))
    assert f"{total} of {total} agree" in printed
    assert all(f"flash {name}" in printed for name in sets)
    assert printed.count("  ok\n") == total


def test_a_wrong_answer_a_nan_and_a_failure_are_counted_and_the_exit_status_is_1(
    selftest: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(eager.EagerBackend):
        def vision(self, q: Any, k: Any, v: Any, mask: Any) -> Any:
            return super().vision(q, k, v, mask) + 0.001

        def extend(self, q: Any, k: Any, v: Any, keys: Any, values: Any, mask: Any) -> Any:
            if q.shape[1] == 1:
                raise ValueError("no such operator")
            return super().extend(q, k, v, keys, values, mask) * float("nan")

    class WrongOperators(Operators):
        def gate(self, x: Any, weight: Any, bias: Any, live: Any) -> Any:
            return super().gate(x, weight, bias, live) * 1.001

        def embed(self, token_ids: Any, table: Any) -> Any:
            return super().embed(token_ids + 1 - 2 * (token_ids > 0), table)

        def layer_norm(self, x: Any, weight: Any, bias: Any) -> Any:
            raise ValueError("no such norm")

    monkeypatch.setattr(selftest, "paths", lambda device: [("wrong", ("float32",), "eager", WrongOperators())])
    monkeypatch.setattr(bench, "backend_for", lambda device, implementation, *heads: Wrong(*heads))
    assert selftest.main() == 1
    printed = capsys.readouterr().out
    assert "0 of 7 agree" in printed
    assert printed.count("MISMATCH") == 5
    assert printed.count("FAILED: ") == 2
    assert "no such operator" in printed
    assert "no such norm" in printed


def test_a_device_that_is_not_there_is_said_and_the_exit_status_is_2(
    selftest: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["selftest.py", "--device", "tpu"])
    assert selftest.main() == 2
    assert capsys.readouterr().err.endswith(" [device_unknown]\n")


def test_the_case_and_its_float64_answer_agree_on_shapes() -> None:
    for case in CASES:
        inputs = [x.astype(np.float64) for x in case.inputs()]
        assert case.expected(inputs).shape == case.live_rows(inputs[0]).shape


def test_the_rest_of_a_prompt_sees_what_its_slot_holds() -> None:
    case = CASES[2]
    q, k, v, keys, values = (x.astype(np.float64) for x in case.inputs())
    whole = Case("prefill", 4, 2, 16, 60, (53,))
    k, v = (np.concatenate([held[1, :, :20].transpose(1, 0, 2), new[0]])[None] for held, new in ((keys, k), (values, v)))
    expected = whole.expected([np.concatenate([np.zeros((1, 20, 4, 16)), q], 1), k, v, keys[:1], values[:1]])[20:]
    inputs = [x.astype(np.float64) for x in case.inputs()]
    np.testing.assert_array_equal(case.expected(inputs), expected)
    for dead in inputs[3:]:
        dead[0], dead[1, :, 53:] = np.nan, np.nan
    np.testing.assert_array_equal(case.expected(inputs), expected)
