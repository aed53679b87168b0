"""Notes of tasks that were begun: a note that is still there when a task begins tells that the task ended its process."""

import contextlib
import json
from dataclasses import asdict, dataclass, field, replace

from mindnlp_ocr.farm.settings import FOLDER
from mindnlp_ocr.farm.store import Store

DEATHS = 3  # of actors within one item that was worked on alone, before it is given up


@dataclass(frozen=True)
class Note:
    """What is known of a task that was begun.

    Attributes:
        run: by which run. Whoever ended an earlier one, it was not an item of the task.
        item: which was worked on alone; None where all were worked on together.
        deaths: of processes, by the item during which they came.
        given_up: items that are not tried again, and why.
    """

    run: str
    item: int | None = None
    deaths: dict[str, int] = field(default_factory=dict)
    given_up: dict[str, str] = field(default_factory=dict)


class Started:
    """The note of one task. Use :meth:`begin` before it is worked on, and :meth:`end` when what came of it is written."""

    def __init__(self, store: Store, key: str, run: str) -> None:
        self._store, self._name, self._run = store, f"{FOLDER}/started/{key}.json", run
        self._note = Note(run)

    def begin(self) -> bool:
        """Note that the task begins. Returns whether it has begun before, and has to be worked on alone."""
        before = self._read()
        if before is None:
            self._write(self._note)
            return False
        self._note = self._counted(before) if before.run == self._run else Note(self._run)
        self._write(self._note)
        return True

    @property
    def given_up(self) -> dict[int, str]:
        """Items that are not tried again, and why."""
        return {int(item): why for item, why in self._note.given_up.items()}

    def at(self, item: int) -> None:
        """Note that an item is worked on alone."""
        if self._note.item != item:
            self._note = replace(self._note, item=item)
            self._write(self._note)

    def end(self) -> None:
        """The task is done."""
        self._store.remove(self._name)

    def _counted(self, note: Note) -> Note:
        if note.item is None:
            return note
        item = str(note.item)
        note = replace(note, item=None, deaths=note.deaths | {item: note.deaths.get(item, 0) + 1})
        if note.deaths[item] < DEATHS:
            return note
        error = (
            f"{DEATHS} actors ended while they worked on nothing else: leave the page out, or give its reader more memory"
        )
        return replace(note, given_up=note.given_up | {item: error})

    def _read(self) -> Note | None:
        with contextlib.suppress(FileNotFoundError):
            return Note(**json.loads(self._store.read(self._name)))
        return None

    def _write(self, note: Note) -> None:
        self._store.write(self._name, json.dumps(asdict(note)).encode())
