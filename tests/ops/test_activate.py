"""A device in a process that has used MindSpore before."""

import subprocess
import sys


def test_a_cpu_that_has_run_something_already_is_used_as_it_is() -> None:
    code = """
import mindspore as ms
assert (ms.Tensor([1.0]) + 1).asnumpy() == 2
from mindnlp_ocr.ops.device import Device
Device("CPU").activate()
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
