"""The progress bar of a farm, and the report at its end."""

import json
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from mindnlp_ocr.errors import coded
from mindnlp_ocr.farm.settings import FOLDER
from mindnlp_ocr.farm.store import Store

FAILED = f"{FOLDER}/failed"
CAUSES = 10  # maximum number of causes in the report


@dataclass
class Report:
    """Statistics of a run.

    Attributes:
        pages: number of pages that this run processed, including failed ones.
        tasks: number of tasks that this run finished.
        seconds: time from the start of the first task to the end of the last.
        start_seconds: time before that, for starting Ray and finding unfinished tasks.
        failures: number of failures in the whole output, by cause.
        cost_per_hour: cost of the cluster, in any currency.
        warm: pages and seconds of every actor, without its first task.
    """

    pages: int = 0
    tasks: int = 0
    seconds: float = 0.0
    start_seconds: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)
    cost_per_hour: float | None = None
    warm: dict[str, list[float]] = field(default_factory=dict)

    def note(self, account: dict[str, Any]) -> None:
        """Record a finished task."""
        self.pages += account["pages"]
        self.tasks += 1
        if account["actor"] not in self.warm:  # its first task: the model was loaded meanwhile
            self.warm[account["actor"]] = [0.0, 0.0]
            return
        warm = self.warm[account["actor"]]
        self.warm[account["actor"]] = [warm[0] + account["pages"], warm[1] + account["seconds"]]

    @property
    def warm_pages_per_second(self) -> float:
        """Sum of the speeds of all actors, each without its first task."""
        return sum(pages / seconds for pages, seconds in self.warm.values() if seconds)

    @property
    def pages_per_second(self) -> float:
        return self.pages / self.seconds if self.seconds else 0.0

    @property
    def cost_per_million(self) -> float | None:
        """Cost of a million pages at the speed of this run; None if it is unknown."""
        if self.cost_per_hour is None or not self.pages_per_second:
            return None
        return 1e6 / self.pages_per_second / 3600 * self.cost_per_hour

    def as_dict(self) -> dict[str, Any]:
        """Return the content of ``_farm/runs/*.json``."""
        return {
            "pages": self.pages,
            "tasks": self.tasks,
            "seconds": round(self.seconds, 3),
            "start_seconds": round(self.start_seconds, 3),
            "pages_per_second": round(self.pages_per_second, 3),
            "warm_pages_per_second": round(self.warm_pages_per_second, 3),
            "failures": dict(self.failures.most_common()),
            "cost_per_million_pages": self.cost_per_million,
        }

    def lines(self) -> list[str]:
        """Return the lines that are printed at the end of a run."""
        rate = f"{self.pages_per_second:.2f} pages per second"
        lines = [
            f"{self.pages} pages in {self.tasks} tasks, {self.seconds:.1f} s: {rate} (start: {self.start_seconds:.1f} s)"
        ]
        if self.cost_per_million is not None:
            lines.append(f"cost of a million pages: {self.cost_per_million:.2f} at {self.cost_per_hour:g} per hour")
        if total := self.failures.total():
            lines.append(f"{total} pages or documents of the output could not be read:")
            lines += [f"  {count} x {cause}" for cause, count in self.failures.most_common(CAUSES)]
        return lines


class Progress:
    """The progress bar, with the warnings and errors of pages."""

    def __init__(self, shown: bool) -> None:
        self._bar = tqdm(unit="page", file=sys.stderr, disable=not shown)

    def task(self, account: dict[str, Any]) -> None:
        """Record a finished task."""
        for warning in account["warnings"]:
            tqdm.write(f"warning: {warning}", file=sys.stderr)
        for failure in account["failures"]:
            where = f" page {failure['page']}" if failure["page"] else ""
            tqdm.write(f"error: {failure['path']}{where}: {coded(failure['error'], failure['error_code'])}", file=sys.stderr)
        self._bar.update(account["pages"])

    def close(self) -> None:
        self._bar.close()


def failures(store: Store) -> Counter[str]:
    """Count the failures of the whole output by cause: the message without numbers and the name of the document."""
    causes: Counter[str] = Counter()
    for name in store.names(FAILED):
        for failure in json.loads(store.read(f"{FAILED}/{name}")):
            message = re.sub(r"\d+", "N", failure["error"].replace(failure["path"], "..."))
            causes[coded(message, failure.get("error_code"))] += 1  # which older releases do not note
    return causes
