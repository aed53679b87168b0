"""Tests of the default environment: mindnlp can be imported, and torch and CUDA packages are not installed."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

INSTALLED = {name.lower() for d in importlib.metadata.distributions() if (name := d.metadata["Name"])}


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="not the environment that uv.lock makes")
def test_no_torch_and_no_cuda_package_is_installed() -> None:
    assert not [name for name in INSTALLED if name.startswith(("torch", "nvidia-", "triton"))]


@pytest.mark.skipif("mindnlp" not in INSTALLED, reason="the core alone is installed, without the extra [mindnlp]")
def test_mindnlp_imports_and_brings_its_own_qwen2vl() -> None:
    """In a process of its own: the import replaces attributes of mindspore.Tensor."""
    script = (
        "from mindnlp_ocr.interop.loading import import_mindnlp; import_mindnlp(); "
        "from transformers import Qwen2VLForConditionalGeneration as M; print(M.__name__)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.split()[-1] == "Qwen2VLForConditionalGeneration"
    assert importlib.metadata.version("mindnlp") == "0.5.1"
