"""Tests of reports: figures in the Markdown, the HTML page and the plots."""

import runpy
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mindnlp_ocr.bench.plots import PLOTS, drawn
from mindnlp_ocr.bench.report import write_report
from mindnlp_ocr.bench.results import Results, Section
from tests.conftest import ROOT

STAGES = {"preprocess_ms": 1.0, "vision_ms": 2.0, "prefill_ms": 3.0, "decode_ms": 4.0}
SECTIONS = {
    "latency": Section(title="Latency <b>", about="Of & about", rows=[{"page": "a<script>.png", "p50_ms": 10.0, **STAGES}]),
    "hits": Section(title="Hits", rows=[{"page": "a|b.png", "cold_ms": 20.0, "hit_ms": 1.0}]),
    "batch": Section(title="Batch", rows=[{"batch_size": 1, "pages_per_s": 2.5}, {"batch_size": 2, "pages_per_s": None}]),
    "empty": Section(title="Nothing here", rows=[]),
}


@pytest.fixture
def figures() -> Results:
    return Results(tool="benchmark_kv_cache", command="uv run x", date="2026-01-02T03:04:05+00:00", sections=SECTIONS)


def test_markdown_has_the_command_the_date_and_every_row(figures: Results, tmp_path: Path) -> None:
    write_report([figures], tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "## benchmark_kv_cache\n\n`uv run x`\n\n2026-01-02 03:04:05 UTC, " in text
    assert "| batch size | pages/s |\n|---|---|\n| 1 | 2.50 |\n| 2 | - |\n" in text
    assert "| a\\|b.png | 20.00 | 1.00 |" in text
    assert "### Nothing here" in text
    assert "smoke" not in text
    for line in text.splitlines():
        if line.startswith("!["):
            assert (tmp_path / line.rpartition("(")[2][:-1]).is_file()
    assert text.count("![") == 3


def test_two_runs_of_a_tool_have_plots_of_their_own(figures: Results, tmp_path: Path) -> None:
    paths = write_report([figures, figures.model_copy(update={"command": "uv run y"})], tmp_path / "report.md")
    assert len(set(paths)) == len(paths) == 2 + 3 * 2
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    second = text[text.index("uv run y") :]
    assert "(report/latency-by-stage-2.svg)" in second and "(report/latency-by-stage.svg)" not in second


def test_long_tables_are_folded_and_not_drawn(figures: Results, tmp_path: Path) -> None:
    figures.sections = {"hits": Section(title="Hits", rows=[{"page": f"{i}.png", "cold_ms": 2.0} for i in range(50)])}
    write_report([figures], tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "<details><summary>50 rows</summary>\n\n| page | cold, ms |\n|---|---|\n| 0.png | 2.00 |\n" in text
    assert text.endswith("| 49.png | 2.00 |\n\n</details>\n")
    assert "![" not in text


def test_html_stands_alone_and_is_escaped(figures: Results, tmp_path: Path) -> None:
    figures.smoke = True
    write_report([figures], tmp_path / "report.md")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page and "a&lt;script&gt;.png" in page and "<h3>Latency &lt;b&gt;</h3>" in page
    assert page.count("<svg") == 3
    assert 'src="' not in page and "<link" not in page and "@import" not in page
    assert "these figures mean nothing" in page


def test_plots_are_svg_drawn_alike_twice_and_only_where_there_are_figures(figures: Results) -> None:
    plots = drawn(figures)
    assert list(plots) == ["latency-by-stage", "hit-against-cold", "throughput-by-batch"]
    assert drawn(figures) == plots
    for plot in plots.values():
        assert ElementTree.fromstring(plot.svg).tag.endswith("svg")
    other = figures.model_copy(update={"tool": "benchmark_peers"})
    assert drawn(other) == {}


def test_every_plot_is_of_a_section_that_its_tool_has() -> None:
    for tool, section, _, _ in PLOTS.values():
        command = ROOT / "mindnlp_ocr" / "commands" / f"{tool}.py"
        source = command if command.is_file() else ROOT / "tools" / f"{tool}.py"
        assert f'"{section}"' in source.read_text(encoding="utf-8")


def test_a_comparison_shows_its_criteria_first(tmp_path: Path) -> None:
    rows = [{"patches": 2048, "flash_mb": 1.0, "eager_mb": 10.0, "saved_percent": 90.0}]
    compared = Results(tool="benchmark_comparison", command="x", date="y", sections={})
    compared.sections = {"attention_memory": Section(title="Memory", rows=list(rows)), "report": Section(title="r")}
    write_report([compared], tmp_path / "r.md")
    text = (tmp_path / "r.md").read_text(encoding="utf-8")
    assert text.index("### Acceptance criteria") < text.index("### Memory")
    assert "| flash attention takes less memory on long sequences | 30 % less | 90.00 % less | ✓ met |" in text
    assert "| a detailed performance report | 1 plots | - | - not measured |" in text


def test_the_projects_page_is_what_its_figures_give(tmp_path: Path) -> None:
    """Write it anew with `just report`."""
    folder = ROOT / "docs" / "performance"
    runs = [Results.load(path) for path in sorted(folder.glob("*.json"))]
    assert len(runs) > 10 and not any(run.smoke for run in runs)
    written = write_report(runs, tmp_path / "performance.md")
    assert (ROOT / "docs" / "performance.md").read_text(encoding="utf-8") == written[0].read_text(encoding="utf-8")
    assert {path.name for path in folder.glob("*.svg")} == {path.name for path in written[2:]}


def test_the_command_line_rebuilds_a_report_from_json_alone(
    figures: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures.save(tmp_path / "kv.json")
    write_report([figures], tmp_path / "first.md", "Ours")
    arguments = ["report.py", str(tmp_path / "kv.json"), "--output", str(tmp_path / "first2.md"), "--title", "Ours"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "tools" / "report.py"), run_name="__main__")
    assert not ended.value.code
    assert len(capsys.readouterr().out.splitlines()) == 5
    first, second = ((tmp_path / f"{name}.md").read_text(encoding="utf-8") for name in ("first", "first2"))
    assert second == first.replace("(first/", "(first2/")
    monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path / "none.json"), "--output", str(tmp_path / "a.md")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "tools" / "report.py"), run_name="__main__")
    assert ended.value.code == 2
    assert "none.json cannot be read" in capsys.readouterr().err
