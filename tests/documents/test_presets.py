"""Tests of presets: their choice, their settings, and errors in a user's own preset."""

import json
from pathlib import Path
from typing import Any

import pytest

from mindnlp_ocr.documents import presets
from mindnlp_ocr.documents.reader import DocumentReader
from mindnlp_ocr.documents.settings import DocumentSettings
from mindnlp_ocr.errors import SetupError
from tests.conftest import ROOT
from tests.documents.scripted import ScriptedModel, by_prompt


def test_presets_lie_in_configs_and_in_the_package() -> None:
    assert presets.names() == ("mineru", "nanonets", "olmocr", "olmocr2", "plain", "rolmocr")
    assert {path.name for path in (ROOT / "configs" / "presets").iterdir()} == {f"{name}.yaml" for name in presets.names()}
    assert (ROOT / "configs" / "presets").resolve() == presets.FOLDER
    assert presets.FOLDER.is_relative_to(Path(presets.__file__).parents[1])
    assert '"*.yaml"' in (ROOT / "setup.py").read_text(encoding="utf-8")  # so that a wheel has them


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/models/MinerU2.5-2509-1.2B", "mineru"),
        ("/cache/models--opendatalab--MinerU2.5-Pro-2605/snapshots/0a1b", "mineru"),
        ("olmOCR-7B-0225-preview", "olmocr"),
        ("/models/olmOCR-7B-0725", "plain"),  # whose prompt is another
        ("/models/olmOCR-2-7B-1025", "olmocr2"),
        ("/cache/models--nanonets--Nanonets-OCR-s/snapshots/0a1b", "nanonets"),
        ("/models/Nanonets-OCR2-3B", "nanonets"),
        ("/cache/models--reducto--RolmOCR/snapshots/0a1b", "rolmocr"),
        ("/models/Qwen2.5-VL-3B-Instruct", "plain"),
        ("/models/Qwen2-VL-2B-Instruct", "plain"),
    ],
)
def test_a_checkpoint_gets_the_preset_of_its_name(path: str, name: str, tmp_path: Path) -> None:
    assert presets.named(path, tmp_path) == name
    chosen = presets.settings_of(tmp_path, path)
    assert chosen == DocumentSettings(**presets.load(name).model_dump(exclude={"models"}, exclude_unset=True))


def test_a_checkpoint_gets_the_preset_of_what_it_was_made_from(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_name_or_path": "opendatalab/MinerU2.5-2509-1.2B"}', encoding="utf-8")
    assert presets.named("/models/mine", tmp_path) == "mineru"


def test_what_a_folder_declares_goes_before_its_name_and_after_a_preset_that_is_named(tmp_path: Path) -> None:
    lines = {"prompt": "its own", "height": 42}
    declared = {"layout": "lines", "lines": lines, "confidence": {"bias": 1.0}, "page_max_pixels": 500}
    (tmp_path / "document_config.json").write_text(json.dumps(declared), encoding="utf-8")
    assert presets.settings_of(tmp_path, "/models/MinerU2.5-2509-1.2B") == DocumentSettings.from_folder(tmp_path)
    chosen = presets.settings_of(tmp_path, "/models/mine", "mineru")
    assert chosen.layout == "model"
    assert chosen.lines is not None
    assert (chosen.lines.height, chosen.page_max_pixels) == (42, 500)
    assert chosen.confidence is not None


def test_a_preset_of_a_users_own_is_a_file(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("layout: page\npage_prompt: Read this.\npage_longest_side: 500\n", encoding="utf-8")
    model: Any = ScriptedModel(by_prompt({}), tmp_path)
    assert DocumentReader(model, preset=str(mine)).settings.page_prompt == "Read this."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layout: [", r"--preset .*mine.yaml cannot be read \(.*\): pass a YAML file such as configs/presets/plain.yaml"),
        ("- layout", "--preset .*mine.yaml contains no settings: write lines such as `layout: page`"),
        ("layuot: page", "mine.yaml cannot be used: layuot: Extra inputs are not permitted"),
        ("layout: column", "mine.yaml cannot be used: layout: Input should be 'lines', 'page' or 'model'"),
        ("layout: model", "layout is 'model', but it has no model_layout: add it, {} suffices"),
        ("layout: lines", "layout is 'lines', but it has no settings for lines: add them"),
        ("layout: page\nmodel_layout: {sampling: {table: {top_p: 2}}}", "model_layout.sampling.table.top_p: Input should"),
    ],
)
def test_what_is_wrong_with_a_preset_is_said(text: str, message: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(text, encoding="utf-8")
    with pytest.raises(SetupError, match=message):
        presets.load(str(mine))


def test_a_preset_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(
        SetupError, match="--preset plane is unknown: use mineru, nanonets, olmocr, olmocr2, plain, rolmocr, or a YAML"
    ):
        presets.load("plane")
    with pytest.raises(SetupError, match=r"--preset none.yaml cannot be read \(.*No such file"):
        presets.load("none.yaml")
