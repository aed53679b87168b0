"""Tests that every benchmark runs, with one run and few tokens. The measured values are not checked."""

import subprocess
import sys
from pathlib import Path

import pytest

from mindnlp_ocr.bench.results import Results
from mindnlp_ocr.models.qwen2vl import EMBEDDED
from tests.cluster.runs import clean_environment
from tests.conftest import ROOT
from tests.tools.conftest import Tool

WORD = "tests/pages/word_56x56.png"


def test_kv_cache_measures_all_that_the_request_lists(tool: Tool, tmp_path: Path) -> None:
    assert tool("benchmark_kv_cache", "--smoke", "--output", tmp_path / "kv.json", "--report", tmp_path) == 0
    results = Results.load(tmp_path / "kv.json")
    assert results.smoke and results.command.startswith("uv run tools/benchmark_kv_cache.py --smoke --output ")
    names = ["memory", "latency", "hits", "batch", "prompts", "long", "statistics", "report"]
    assert list(results.sections) == names and all(section.rows for section in results.sections.values())
    assert results.sections["latency"].rows[0].keys() >= {"mean_ms", "p50_ms", "p90_ms", "p99_ms", "vision_ms"}
    assert [row["batch_size"] for row in results.sections["batch"].rows] == [1, 2, 4, 8]
    assert results.row("statistics", statistic="total_requests")["value"] == 6
    assert results.row("report")["plots"] == 5
    assert (tmp_path / "report.html").is_file()


def test_kv_cache_over_many_pages_takes_the_options_of_the_request(tool: Tool, tmp_path: Path) -> None:
    options = ["--model_path", EMBEDDED, "--device", "cpu", "--flash_attention", "--max_tokens", 16]
    assert tool("benchmark_kv_cache", "endurance", "--smoke", *options, "--output", tmp_path / "a.json") == 0
    assert [row["pages"] for row in Results.load(tmp_path / "a.json").sections["endurance"].rows] == list(range(1, 15))


def test_comparison_passes_nothing_that_was_only_tried(
    tool: Tool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool("benchmark_comparison", "--smoke", "--output", tmp_path / "on-off.json") == 1
    results = Results.load(tmp_path / "on-off.json")
    names = ["single_image", "batch", "long_sequence", "past_2048", "attention_memory"]
    assert list(results.sections) == names and all(section.rows for section in results.sections.values())
    assert results.row("past_2048").items() >= {"new_tokens": 16, "ended": "whole"}.items()
    printed = capsys.readouterr().out
    assert "KV CACHE COMPARISON SUMMARY\n" in printed
    assert printed.count("not measured, target") == 5 and "✓" not in printed
    assert printed.endswith("Overall: 0/5 criteria passed\n")


def test_attention_beside_eager(tool: Tool, tmp_path: Path) -> None:
    assert tool("benchmark_attention", "--smoke", "--output", tmp_path / "attention.json") == 0
    results = Results.load(tmp_path / "attention.json")
    for work in ("vision", "prefill", "decode"):
        assert results.row(work).keys() == {"case", "flash_ms", "of_limit_percent", "limit", "eager_ms", "eager_ratio"}


@pytest.mark.parametrize(
    ("name", "arguments", "rows"),
    [
        ("benchmark_fusion", [WORD, "--runs", 1], {"fusion": 8}),
        ("benchmark_export", [WORD, "--runs", 1, "--max-length", 128, "--vision-patches", 64], {"export": 1, "exported": 1}),
        ("benchmark_load", [EMBEDDED, "--runs", 1], {"load": 1}),
        ("benchmark_start", ["--image", WORD, "--runs", 1], {"start": 1}),
        ("benchmark_requests", ["lines", "prompts", "--lines", 3, "--runs", 1], {"lines": 4, "prompts": 2}),
        ("benchmark_requests", ["arrivals", "--runs", 1, "--rate", 50, "--requests", 2], {"arrivals": 1}),
        ("benchmark_shapes", ["--layers", 1, "--side", 4, "--tokens", 2, "--runs", 1], {"speed": 3, "memory": 1}),
        ("benchmark_vision", ["--blocks", 1, "--sides", "4,6", "--runs", 1], {"vision": 2}),
    ],
)
def test_the_others_write_their_figures(
    tool: Tool, tmp_path: Path, name: str, arguments: list[object], rows: dict[str, int]
) -> None:
    assert tool(name, *arguments, "--output", tmp_path / "a.json") == 0
    sections = Results.load(tmp_path / "a.json").sections
    assert {section: len(figures.rows) for section, figures in sections.items()} == rows
    assert all(value is not None for section in sections.values() for row in section.rows for value in row.values())


def test_a_farm_beside_one_process(tmp_path: Path) -> None:
    """In a process of its own: Ray's workers must not find MindSpore imported."""
    small = ["--copies", "2", "--pages-per-task", "1", "--simulated-pages", "40", "--simulated-actors", "1", "--image", WORD]
    command = [sys.executable, "tools/benchmark_farm.py", *small, "--output", str(tmp_path / "a.json")]
    subprocess.run(command, cwd=ROOT, env=clean_environment(), check=True, timeout=400)
    sections = Results.load(tmp_path / "a.json").sections
    assert [row["what"] for row in sections["pages"].rows][-1] == "1 process of 2 threads"
    assert [row["tasks"] for row in sections["simulated"].rows] == [3]


def test_a_library_of_operators_is_timed_on_teams_of_several_sizes(tool: Tool, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool("benchmark_threads", "--runs", 1, "--calls", 3) == 0
    assert capsys.readouterr().out.count("8 threads") == 4


def test_lookup_counts_over_the_goldens(tool: Tool, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool("benchmark_lookup") == 0
    assert "n 3, up to 8 guesses: " in capsys.readouterr().out


def test_dtypes_that_read_alike_exit_0(tool: Tool, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool("compare_dtypes", WORD) == 0
    assert "character error rate: fp32 0.000 %, int8 " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "nonsense is unknown: use memory, latency, "),
        (["--runs", "0"], "argument --runs: '0' is not a positive whole number: use 1 or more"),
        (["--model-path", "/no/such", "latency", "--smoke"], "error: model /no/such does not exist"),
        (["--device", "cuda", "latency", "--smoke"], "error: device 'cuda'"),
    ],
)
def test_wrong_usage_exits_2_with_the_remedy(
    tool: Tool, capsys: pytest.CaptureFixture[str], arguments: list[object], message: str
) -> None:
    assert tool("benchmark_kv_cache", *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_report_without_matplotlib_is_refused_before_anything_is_measured(
    tool: Tool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert tool("benchmark_kv_cache", "memory", "--report", tmp_path / "report") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.endswith(" [package_missing]\n")
    assert printed.err.count("\n") == 1


def test_a_long_text_that_is_killed_is_not_passed(
    tool: Tool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the kernel does when memory is out."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "killed"))
    (tmp_path / "killed").write_text("#!/bin/sh\nkill -9 $$\n", encoding="utf-8")
    (tmp_path / "killed").chmod(0o755)
    assert tool("benchmark_comparison", "past_2048", "--output", tmp_path / "a.json") == 1
    assert Results.load(tmp_path / "a.json").row("past_2048") == {"new_tokens": 0, "ended": "exit status -9"}
    assert "✗ a text of more than 2,048 tokens, not out of memory: 0 tokens" in capsys.readouterr().out
