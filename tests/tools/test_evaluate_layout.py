"""Tests of tools/evaluate_layout.py: its counts, and a run with the shared model."""

import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest

from mindnlp_ocr.documents.result import Block, Box, Line, Page
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
from tests.conftest import ROOT
from tests.tools.conftest import Tool

DEV = ROOT / "tests" / "data" / "dev"


def block(*box: float, label: str | None = "text") -> Block:
    place = Box(*box)
    return Block(box=place, lines=(Line(text="a", box=place),), label=label)


def test_agreement_counts_lines_areas_and_pairs() -> None:
    agreement: Any = runpy.run_path(str(ROOT / "tools" / "evaluate_layout.py"))["agreement"]
    known = Page(number=1, blocks=tuple(block(0, top, 100, top + 10, label=None) for top in (0, 20, 40)))
    twice = [block(0, 0, 100, 9), block(0, 1, 100, 10)]  # both over the first block, which is matched once
    half, gap = block(0, 20, 50, 60), block(0, 40, 100, 50, label=None)
    found = Page(number=1, layout="model", blocks=(*twice, half, gap))
    assert agreement(found, known) == {
        "lines": 3,
        "lines_inside": 3,  # of the third, half
        "area": 900 + 900 + 2000,
        "area_on_text": 900 + 900 + 500 + 500,
        "known": 3,
        "found": 3,  # the lines outside of the model's blocks are none of them
        "matched": 1,
    }


def test_a_run_says_how_far_blocks_agree_and_what_is_read(
    model: Qwen2VLModel, monkeypatch: pytest.MonkeyPatch, tool: Tool, tmp_path: Path
) -> None:
    monkeypatch.setattr("mindnlp_ocr.opening.load_model", lambda arguments: model)
    output, name = tmp_path / "layout.json", "typeset_12_clean_110.jpg"  # the model leaves a line of it out
    truths = json.loads((DEV / "typeset.json").read_text(encoding="utf-8"))
    page = Path(shutil.copy(DEV / name, tmp_path))
    page.with_suffix(".txt").write_text(truths[name]["text"], encoding="utf-8")
    assert tool("evaluate_layout", str(page), "--output", output) == 0
    layout, text = json.loads(output.read_text(encoding="utf-8"))["sections"].values()
    [shares] = layout["rows"]
    assert (shares["pages"], shares["read_by_lines"]) == (1, 0)
    assert 0 < shares["lines_found_percent"] < 100
    ways = {row["layout"]: row for row in text["rows"]}
    assert 90 < ways["lines"]["f1_percent"] < 100
    assert ways["model alone"]["recall_percent"] < ways["model"]["recall_percent"] <= 100
