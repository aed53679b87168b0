"""The acceptance criteria for performance (issue 2378 of the upstream project), and their evaluation."""

from dataclasses import dataclass

from mindnlp_ocr.bench.results import Results, Row, Value, shown


@dataclass(frozen=True)
class Criterion:
    """A criterion that is met if the lowest value of a column, over all rows of a section, is at least ``target``."""

    name: str
    section: str
    column: str
    target: float
    unit: str

    def measured(self, results: Results) -> float | None:
        """The measured value; None if a row is missing or the run was a smoke test."""
        values: list[Value] = [row.get(self.column) for row in self._rows(results)]
        numbers = [value for value in values if isinstance(value, int | float)]
        return min(numbers) if numbers and len(numbers) == len(values) and not results.smoke else None

    def _rows(self, results: Results) -> list[Row]:
        return results.sections[self.section].rows if self.section in results.sections else []


CRITERIA = (
    Criterion("one page takes less time with the KV cache", "single_image", "saved_percent", 20, "% less"),
    Criterion("flash attention takes less memory on long sequences", "attention_memory", "saved_percent", 30, "% less"),
    Criterion("throughput of four pages at a time, cache on against off", "batch", "ratio", 2.5, "x"),
    Criterion("a text of more than 2,048 tokens, not out of memory", "past_2048", "new_tokens", 2049, "tokens"),
    Criterion("a detailed performance report", "report", "plots", 1, "plots"),
)
ABOUT = (
    "From issue 2378 of the upstream project; if it states a range, its lower end. The worst row of each section counts. "
    "A criterion that was not measured is not met."
)


def check(results: Results) -> list[Row]:
    """Return one row per criterion: name, target, measured value, and whether it was met (None: not measured)."""
    rows: list[Row] = []
    for criterion in CRITERIA:
        value = criterion.measured(results)
        rows.append(
            {
                "criterion": criterion.name,
                "target": f"{shown(criterion.target)} {criterion.unit}",
                "measured": None if value is None else f"{shown(value)} {criterion.unit}",
                "met": None if value is None else value >= criterion.target,
            }
        )
    return rows


def passed(rows: list[Row]) -> bool:
    """Return whether all criteria were measured and met."""
    return all(row["met"] is True for row in rows)
