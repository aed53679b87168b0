"""The code of a farm's processes: planners, which open documents, and actors, which read tasks with a model each.

Results are written to the output folder. The driver receives only a short account of every task.
"""

import json
import os
import platform
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mindnlp_ocr.documents.result import Page
from mindnlp_ocr.errors import Described, PageError, SetupError, described
from mindnlp_ocr.farm.alone import Begun, Item, Kind, alone
from mindnlp_ocr.farm.assemble import assemble, wanting
from mindnlp_ocr.farm.metrics import Metrics
from mindnlp_ocr.farm.opening import count_pages
from mindnlp_ocr.farm.parts import Row, encode
from mindnlp_ocr.farm.plan import Document, Plan, indices, part_name, parts_there, plan_of, read_plan
from mindnlp_ocr.farm.settings import FOLDER, FarmSettings
from mindnlp_ocr.farm.started import Started
from mindnlp_ocr.farm.store import Store

FINISH = -1  # pseudo task: write the files of documents whose pages have been read
PLANS_KEPT = 4
FAILED = f"{FOLDER}/failed"


@dataclass
class Account:
    """The outcome of a task.

    Attributes:
        pages: number of processed pages, including failed ones.
        failures: failures of pages and documents.
        seconds: duration of the task.
        actor: host and process id of the actor.
        stop: error that must stop the whole run, else None.
        code: code of this error.
    """

    chunk: int
    task: int
    pages: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    actor: str = ""
    stop: str | None = None
    code: str = ""


# Planning


def plan_chunks(chunks: Sequence[int], settings: FarmSettings) -> Iterator[tuple[int, int]]:
    """Yield the chunk and the number of every unfinished task.

    Raises:
        SetupError: the output folder cannot be used.
    """
    store = Store(settings.output)
    for number in chunks:
        plan = _planned(store, int(number), settings)
        there = parts_there(store, settings, number)
        yield from ((number, task) for task in range(len(plan.tasks)) if task not in there)
        if wanting(store, settings, number, plan):
            yield number, FINISH


def _planned(store: Store, number: int, settings: FarmSettings) -> Plan:
    started = Started(store, f"plan-{number:06}", settings.run)

    def count(documents: Sequence[Document]) -> Iterator[int | PageError]:
        if started.begin():
            items = [(document.name, document.place, 0) for document in documents]
            for outcome in _one_by_one("count", items, settings, started):
                yield outcome if isinstance(outcome, PageError) else int(outcome)
            return
        for document in documents:
            try:
                yield count_pages(document.name, document.place, settings)
            except PageError as error:
                yield error

    plan = plan_of(store, number, settings, count)
    started.end()
    return plan


def _one_by_one(kind: Kind, items: Sequence[Item], settings: FarmSettings, started: Started) -> Iterator[Any]:
    for outcome in alone(kind, items, settings, started.given_up):
        if isinstance(outcome, Begun):
            started.at(int(outcome))
        else:
            yield outcome


# Reading


class TaskReader:
    """An actor of the farm. It loads its model for its first task."""

    def __init__(self, settings: FarmSettings) -> None:
        self._settings, self._store = settings, Store(settings.output)
        self._metrics, self._name = Metrics(), f"{platform.node()}:{os.getpid()}"
        self._reader: Any = None
        self._plans: dict[int, Plan] = {}

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Process a batch with one task. Called by Ray Data."""
        accounts = [self.do(int(number), int(task)) for number, task in zip(batch["chunk"], batch["task"], strict=True)]
        return {"account": [json.dumps(asdict(account)) for account in accounts]}

    def do(self, number: int, task: int) -> Account:
        """Process a task. Errors that must stop the run are returned in the account, not raised."""
        account, start = Account(number, task, actor=self._name), time.perf_counter()
        try:
            plan = self._planned(number)
            if task != FINISH:
                self._read(plan, account)
            self._finish(plan, account)
        except SetupError as error:
            account.stop, account.code = str(error), error.code
        except OSError as error:
            place = self._settings.output
            fault = SetupError(
                f"{place} cannot be written or read ({error}): solve the problem, and run the same command again",
                code="output_failed",
            )
            account.stop, account.code = str(fault), fault.code
        except Exception as error:  # an internal error, for which Ray would repeat the task forever
            traceback.print_exc()
            fault = SetupError(
                f"task {number}-{task} failed ({type(error).__name__}: {error}): report it, with its actor's log",
                code="internal_error",
            )
            account.stop, account.code = str(fault), fault.code
        account.seconds = time.perf_counter() - start
        self._metrics.add(account.pages, len(account.failures), account.seconds)
        return account

    def _planned(self, number: int) -> Plan:
        plan = self._plans.get(number)
        if plan is None:  # tasks of several chunks are interleaved
            plan = read_plan(self._store, number)
            self._plans = dict([*self._plans.items(), (number, plan)][-PLANS_KEPT:])
        return plan

    def _read(self, plan: Plan, account: Account) -> None:
        key = f"{account.chunk:06}-{account.task:06}"
        name = part_name(self._settings, account.chunk, account.task)
        if self._store.exists(name):  # the task was finished, but its account was lost with its actor
            return
        started = Started(self._store, key, self._settings.run)
        ranges = [(plan.documents[item.document], indices(plan, item, self._settings)) for item in plan.tasks[account.task]]
        ended_before = started.begin()
        pages = None if ended_before else self._together(ranges)
        if pages is None:
            pages = self._alone(ranges, started)
        rows = _rows(ranges, pages, account)
        if account.failures:
            self._store.write(f"{FAILED}/{key}.json", json.dumps(account.failures).encode())
        self._store.write(name, encode(rows))
        started.end()

    def _together(self, ranges: Sequence[tuple[Document, Sequence[int]]]) -> list[Page] | None:
        """Read all pages of a task together. Returns None after an error that cannot be attributed to a page."""
        wanted = [(document.name, document.place, numbers) for document, numbers in ranges if numbers]
        if not wanted:
            return []
        if self._reader is None:
            self._reader = self._settings.new_reader()
        try:
            return list(self._reader.read(wanted))
        except SetupError:
            raise
        except Exception as error:
            print(f"pages are read one by one after {type(error).__name__}: {error}", flush=True)
            return None

    def _alone(self, ranges: Sequence[tuple[Document, Sequence[int]]], started: Started) -> list[Page]:
        items = [(document.name, document.place, index) for document, numbers in ranges for index in numbers]
        outcomes = _one_by_one("read", items, self._settings, started)
        return [
            Page(number=index + 1, **described(outcome))
            if isinstance(outcome, PageError)
            else Page.model_validate_json(outcome)
            for (_, _, index), outcome in zip(items, outcomes, strict=True)
        ]

    def _finish(self, plan: Plan, account: Account) -> None:
        number, task = account.chunk, account.task
        own = None if task == FINISH else {item.document for item in plan.tasks[task]}
        for index in wanting(self._store, self._settings, number, plan):
            if own is not None and index not in own:
                continue
            note = f"{FAILED}/{number:06}-file-{index:06}.json"
            try:
                assemble(self._store, self._settings, number, plan, index)
                self._store.remove(note)
            except PageError as error:
                account.failures.append({"path": plan.documents[index].name, "page": None, **described(error)})
                self._store.write(note, json.dumps(account.failures[-1:]).encode())


def _rows(ranges: Sequence[tuple[Document, Sequence[int]]], pages: Sequence[Page], account: Account) -> list[Row]:
    rows, remaining = [], iter(pages)
    for document, numbers in ranges:
        if document.error is not None:
            fault = Described(error=document.error, error_code=document.error_code)
            rows.append(Row(document.name, None, **fault))
            account.failures.append({"path": document.name, "page": None, **fault})
        for _ in numbers:
            page = next(remaining)
            rows.append(Row(document.name, page))
            account.pages += 1
            account.warnings += [f"{document.name} page {page.number}: {warning}" for warning in page.warnings]
            if page.error is not None:
                fault = Described(error=page.error, error_code=page.error_code)
                account.failures.append({"path": document.name, "page": page.number, **fault})
    return rows
