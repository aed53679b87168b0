"""Notes about started tasks. A note that exists when a task starts shows that the task crashed its process before."""

import contextlib
import json
from dataclasses import asdict, dataclass, field, replace

from mindnlp_ocr.farm.settings import FOLDER
from mindnlp_ocr.farm.store import Store

DEATHS = 3  # crashes of an actor on the same item, processed alone, after which the item is skipped


@dataclass(frozen=True)
class Note:
    """The state of a started task.

    Attributes:
        run: name of the run. Notes of earlier runs do not count as crashes.
        item: the item that was processed alone; None if all items were processed together.
        deaths: number of crashes by item.
        given_up: error messages of items that are skipped.
    """

    run: str
    item: int | None = None
    deaths: dict[str, int] = field(default_factory=dict)
    given_up: dict[str, str] = field(default_factory=dict)


class Started:
    """The note about a task. Call :meth:`begin` before the task, and :meth:`end` after its result has been written."""

    def __init__(self, store: Store, key: str, run: str) -> None:
        self._store, self._name, self._run = store, f"{FOLDER}/started/{key}.json", run
        self._note = Note(run)

    def begin(self) -> bool:
        """Record the start of the task. Returns whether it was started before, so that its items must be processed alone."""
        before = self._read()
        if before is None:
            self._write(self._note)
            return False
        self._note = self._counted(before) if before.run == self._run else Note(self._run)
        self._write(self._note)
        return True

    @property
    def given_up(self) -> dict[int, str]:
        """Error messages of items that are skipped."""
        return {int(item): why for item, why in self._note.given_up.items()}

    def at(self, item: int) -> None:
        """Record that an item is processed alone."""
        if self._note.item != item:
            self._note = replace(self._note, item=item)
            self._write(self._note)

    def end(self) -> None:
        """Remove the note, because the task is finished."""
        self._store.remove(self._name)

    def _counted(self, note: Note) -> Note:
        if note.item is None:
            return note
        item = str(note.item)
        note = replace(note, item=None, deaths=note.deaths | {item: note.deaths.get(item, 0) + 1})
        if note.deaths[item] < DEATHS:
            return note
        error = (
            f"{DEATHS} actors ended while they worked only on this page: leave the page out, or give its reader more memory"
        )
        return replace(note, given_up=note.given_up | {item: error})

    def _read(self) -> Note | None:
        with contextlib.suppress(FileNotFoundError):
            return Note(**json.loads(self._store.read(self._name)))
        return None

    def _write(self, note: Note) -> None:
        self._store.write(self._name, json.dumps(asdict(note)).encode())
