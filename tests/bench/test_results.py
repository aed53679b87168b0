"""Tests of self-contained JSON figures, of alternating runs, and of the evaluation of targets."""

import json
from pathlib import Path

import pytest

from mindnlp_ocr.bench.criteria import CRITERIA, check, passed
from mindnlp_ocr.bench.results import Results, Row, Section, shown
from mindnlp_ocr.bench.timing import alternate, spread
from mindnlp_ocr.errors import SetupError


def results(smoke: bool = False, **sections: list[Row]) -> Results:
    tables = {name: Section(title=name, rows=rows) for name, rows in sections.items()}
    return Results(
        tool="benchmark_comparison", command="uv run it", date="2026-01-01T00:00:00", smoke=smoke, sections=tables
    )


MET: dict[str, list[Row]] = {
    "single_image": [{"saved_percent": 80.0}, {"saved_percent": 20.0}],
    "attention_memory": [{"saved_percent": 30.0}],
    "batch": [{"ratio": 2.5}],
    "past_2048": [{"new_tokens": 2049}],
    "report": [{"plots": 2}],
}


def test_what_is_written_is_read_again_with_machine_and_versions(tmp_path: Path) -> None:
    written = results(latency=[{"page": "a.png", "p50_ms": 1.5, "runs": 3, "same": True, "peer_ms": None}])
    written.save(tmp_path / "in" / "a.json")
    assert Results.load(tmp_path / "in" / "a.json") == written
    raw = json.loads((tmp_path / "in" / "a.json").read_text(encoding="utf-8"))
    assert raw["sections"]["latency"]["rows"] == written.sections["latency"].rows
    assert raw["machine"].keys() == {"processor", "cores", "memory_gb", "system"}
    assert {"mindnlp_ocr", "python", "mindspore", "numpy"} <= raw["versions"].keys()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read (No such file or directory): pass a file that a benchmark wrote with --output"),
        ("not json", "is not what a benchmark writes with --output (the file: Invalid JSON"),
        ('{"tool": "x", "command": "y"}', "is not what a benchmark writes with --output (date: Field required)"),
        ('{"tool": "x", "command": "y", "date": "z", "figures": {}}', "(figures: Extra inputs are not permitted)"),
    ],
)
def test_another_file_is_refused_in_words(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(SetupError) as error:
        Results.load(tmp_path / "a.json")
    assert message in str(error.value)


def test_a_section_prints_its_rows_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    figures = results()
    figures.add("batch", "Batches", iter([{"size": 4, "pages_per_s": 1.25}, {"size": 8, "pages_per_s": None}]), "About.")
    assert capsys.readouterr().out == "Batches\n  size 4, pages_per_s 1.25\n  size 8, pages_per_s not measured\n"
    assert figures.row("batch", size=8) == {"size": 8, "pages_per_s": None}
    assert figures.row("batch", size=2) == figures.row("latency") == {}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234.5, "1,234"),
        (123.45, "123.5"),
        (12.345, "12.35"),
        (0.12345, "0.123"),
        (-2.5, "-2.50"),
        (12345, "12,345"),
        (None, "not measured"),
        (True, "yes"),
        (False, "no"),
        ("8.5x", "8.5x"),
    ],
)
def test_values_are_shown_for_people(value: float | str | None, text: str) -> None:
    assert shown(value) == text


def test_sides_take_turns_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []
    times = {"a": iter([99.0, 1.0, 5.0, 3.0]), "b": iter([99.0, 2.0, 2.0, 8.0])}

    def side(name: str) -> float:
        calls.append(name)
        return next(times[name])

    assert alternate(3, lambda: side("a"), lambda: side("b")) == [3.0, 2.0]
    assert calls == ["a", "b"] * 4


def test_percentiles_of_known_times() -> None:
    assert spread([float(time) for time in range(101)]) == {"mean_ms": 50.0, "p50_ms": 50.0, "p90_ms": 90.0, "p99_ms": 99.0}


def test_all_criteria_are_met_at_their_targets() -> None:
    rows = check(results(**MET))
    assert [row["met"] for row in rows] == [True] * len(CRITERIA) and passed(rows)
    assert rows[2] == {
        "criterion": "throughput of four pages at a time, cache on against off",
        "target": "2.50 x",
        "measured": "2.50 x",
        "met": True,
    }


@pytest.mark.parametrize(
    ("section", "row", "met"),
    [
        ("single_image", {"saved_percent": 19.9}, False),  # the worst row counts
        ("single_image", {"saved_percent": None}, None),  # and one that is missing
        ("attention_memory", {"saved_percent": 29.9}, False),
        ("batch", {"ratio": 2.49}, False),
        ("past_2048", {"new_tokens": 2048}, False),
        ("report", {"plots": 0}, False),
    ],
)
def test_one_row_that_falls_short_or_was_not_measured_fails_its_criterion_alone(
    section: str, row: Row, met: bool | None
) -> None:
    rows = check(results(**{**MET, section: [*MET[section], row]}))
    at = [criterion.section for criterion in CRITERIA].index(section)
    assert [each["met"] for each in rows] == [met if i == at else True for i in range(len(rows))]
    assert not passed(rows)


def test_what_was_not_measured_or_only_tried_is_never_passed() -> None:
    for figures in (results(), results(smoke=True, **MET), results(**{name: [] for name in MET})):
        rows = check(figures)
        assert [row["met"] for row in rows] == [None] * len(CRITERIA)
        assert not passed(rows)
