"""A part of the documents for each of several processes, which know nothing of one another."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.parallel.launch import Launch


@dataclass(frozen=True)
class Shard:
    """Every ``count``-th document, from the one with this index, 0 or more."""

    index: int = 0
    count: int = 1

    def of(self, names: Sequence[str]) -> list[str]:
        """The documents of this part. All parts together hold each document once."""
        return list(names[self.index :: self.count])

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """A part as a user writes it: "0/4" is the first of four.

        Raises:
            SetupError: it is none.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or int(match[1]) >= int(match[2]):
            raise SetupError(f"--shard is {text}: give I/N, with I from 0 to N-1, such as 0/4 for the first of four parts")
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def choose(cls, text: str | None, launch: Launch | None, output_dir: str | None) -> "Shard":
        """What ``--shard`` says, or that of the worker's rank under msrun.

        Raises:
            SetupError: as :meth:`parse`, or several would write one output.
        """
        if text is not None:
            shard = cls.parse(text)
        elif launch is not None and launch.rank is not None:
            shard = cls(launch.rank, launch.ranks)
        else:
            shard = cls()
        if shard.count > 1 and output_dir is None:
            raise SetupError(
                f"this is worker {shard.index} of {shard.count}, and each would write all of the output: give "
                "--output-dir DIR --resume for a file a document, or --tensor-parallel to read with one model"
            )
        return shard


def note_failures(status: int, output_dir: str | None, shard: Shard) -> None:
    """Leave a file for scripts where a worker could not read everything, and none where it could: under msrun its exit
    status says nothing."""
    if output_dir is None:
        return
    note = Path(output_dir) / f"_failed-{shard.index}.log"
    if status == 0:
        note.unlink(missing_ok=True)
    else:
        note.write_text(f"worker {shard.index} could not read everything: see its log\n", encoding="utf-8")
