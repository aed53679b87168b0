"""Preparation of fonts: subsets, their characters, and what an interrupted call keeps."""

import json
from pathlib import Path

import pytest

from training import prepare

matplotlib = pytest.importorskip("matplotlib")
pytest.importorskip("fontTools")


def test_an_unreadable_font_does_not_lose_those_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lexicon.json").write_text(json.dumps({"zh_chars": ["的"]}), "utf8")
    monkeypatch.setattr(prepare, "traditional_forms", lambda data: {})
    good = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    bad = tmp_path / "broken.ttf"
    bad.write_bytes(b"not a font")
    with pytest.raises(Exception, match="TrueType"):
        prepare.make_fonts([str(good), str(bad)], tmp_path, "fonts3")
    table = json.loads((tmp_path / "has_fonts3.json").read_text("utf8"))
    assert set(table) == {"DejaVuSans.ttf"}
    assert set("Az09£") <= set(table["DejaVuSans.ttf"])
    assert "Ω" not in table["DejaVuSans.ttf"]  # the font has it, but it was not wanted
    assert (tmp_path / "fonts3" / "DejaVuSans.ttf").stat().st_size < good.stat().st_size / 5
