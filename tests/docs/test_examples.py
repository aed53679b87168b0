"""Tests that the scripts in examples/ print what the PyTorch reference reads. They share one model to save compilation."""

import contextlib
import io
import json
import re
import runpy
from typing import Any

import pytest

import mindnlp_ocr
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
from tests.conftest import ROOT, case

NEEDS_A_SERVER = {"call_server"}  # tests/server/test_examples.py runs it
PRINTS = {
    "read_page": ["invoice"],
    "stream_tokens": ["letter"],
    "read_batch": ["invoice", "letter", "receipt"],
    "reuse_cache": ["receipt"],
}


def printed(name: str, model: Qwen2VLModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the output of an example that uses the shared model with an empty cache."""
    model.clear_cache()
    model.reset_cache_stats()
    monkeypatch.setattr(mindnlp_ocr, "Qwen2VLModel", lambda: model, raising=False)
    runpy.run_path(f"examples/{name}.py", run_name="__main__")
    return capsys.readouterr().out


def test_every_example_is_tested_and_short() -> None:
    scripts = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "examples").glob("*.py")}
    assert set(scripts) == set(PRINTS) | NEEDS_A_SERVER
    assert max(text.count("\n") for text in scripts.values()) < 40
    assert all(f"python examples/{name}.py" in text for name, text in scripts.items())


@pytest.mark.parametrize("name", PRINTS)
def test_an_example_prints_the_text_of_its_pages(
    name: str, model: Qwen2VLModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = printed(name, model, monkeypatch, capsys)
    for page in PRINTS[name]:
        assert case(page)["text"] in out
    if name == "read_batch":
        assert "not read: examples/missing.png is missing" in out
    if name == "reuse_cache":
        first, second = re.findall(r"^question \d: (\d+) of", out, re.MULTILINE)
        assert int(second) > int(first) == 0
        assert "cache_hits: 1\ncache_misses: 1\nhit_rate: 50.00%\n" in out


def test_the_notebook_prints_its_stored_outputs(model: Qwen2VLModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model.clear_cache()
    monkeypatch.setattr(mindnlp_ocr, "Qwen2VLModel", lambda: model, raising=False)
    notebook = json.loads((ROOT / "examples" / "read_documents.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    names: dict[str, Any] = {}
    compared = 0
    for cell in cells:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec("".join(cell["source"]), names)
        stored = "".join(line for output in cell["outputs"] if output["output_type"] == "stream" for line in output["text"])
        assert printed.getvalue() == stored
        compared += bool(stored)
    assert compared >= 4
