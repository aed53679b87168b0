"""Division of documents among several independent processes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.parallel.launch import Launch


@dataclass(frozen=True)
class Shard:
    """Every ``count``-th document, beginning with document ``index``."""

    index: int = 0
    count: int = 1

    def of(self, names: Sequence[str]) -> list[str]:
        """Return the documents of this shard. Each document belongs to exactly one shard."""
        return list(names[self.index :: self.count])

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Parse the value of --shard: "0/4" is the first of four shards.

        Raises:
            SetupError: the value is malformed.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or int(match[1]) >= int(match[2]):
            raise SetupError(
                f"--shard is {text}: use I/N, with I from 0 to N-1, such as 0/4 for the first of four parts",
                code="shard_invalid",
            )
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def choose(cls, text: str | None, launch: Launch | None, output_dir: str | None) -> "Shard":
        """Return the shard given by ``--shard``, or that of the worker's rank under msrun.

        Raises:
            SetupError: see :meth:`parse`; or several processes would write to the same output.
        """
        if text is not None:
            shard = cls.parse(text)
        elif launch is not None and launch.rank is not None:
            shard = cls(launch.rank, launch.ranks)
        else:
            shard = cls()
        if shard.count > 1 and output_dir is None:
            raise SetupError(
                f"this is worker {shard.index} of {shard.count}, and each worker would overwrite the output of the others: "
                "add --output-dir DIR --resume for one file per document, or --tensor-parallel to read with one model",
                code="shard_needs_folder",
            )
        return shard


def note_failures(status: int, output_dir: str | None, shard: Shard) -> None:
    """Write a marker file if a worker could not read everything, else remove it. Under msrun, workers always exit with 0."""
    if output_dir is None:
        return
    note = Path(output_dir) / f"_failed-{shard.index}.log"
    if status == 0:
        note.unlink(missing_ok=True)
    else:
        note.write_text(f"worker {shard.index} could not read everything: see its log\n", encoding="utf-8")
