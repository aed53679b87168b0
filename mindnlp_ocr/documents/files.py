"""Output files, one for each document, that appear only when they are complete."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from mindnlp_ocr.errors import SetupError

PART = ".part"


class OutputFolder:
    """An output folder with one file for each document.

    A file is named after its document (page.png -> page.txt); documents that would share a name keep their suffix
    (page.png.txt, page.pdf.txt).

    Args:
        folder: the folder, which is created if it does not exist.
        suffix: suffix of the files, including the dot.
        names: all documents of the run.
        resume: whether to skip documents whose output file already exists.

    Raises:
        SetupError: the folder cannot be written, or two documents have the same file name.
    """

    def __init__(self, folder: str, suffix: str, names: Sequence[str], resume: bool = False) -> None:
        self._folder, self._resume = Path(folder), resume
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SetupError(
                f"--output-dir {folder} cannot be created ({error.strerror}): name another folder", code="output_unwritable"
            ) from error
        self._names = OutputNames(suffix, names)

    def path(self, name: str) -> Path:
        """Return the path of the output file of a document."""
        return self._folder / self._names.of(name)

    def wanted(self, name: str) -> bool:
        """Return whether a document still has to be read."""
        return not (self._resume and self.path(name).is_file())

    def open(self, name: str) -> "OutputFile":
        """Open the output file of a document."""
        return OutputFile(self.path(name))


class OutputNames:
    """The names of the output files of documents.

    Raises:
        SetupError: two documents have the same file name.
    """

    def __init__(self, suffix: str, names: Sequence[str]) -> None:
        self._suffix = suffix
        self._stems = Counter(_stem(name) for name in names)
        owners: dict[str, str] = {}
        for name in names:
            if (other := owners.setdefault(self.of(name), name)) != name:
                raise SetupError(
                    f"{other} and {name} would both be written to {self.of(name)}: read them into two folders",
                    code="output_names_collide",
                )

    def of(self, name: str) -> str:
        """Return the file name of the output of a document."""
        stem = _stem(name)
        return (stem if self._stems[stem] == 1 else _base(name)) + self._suffix


class OutputFile:
    """A binary file that appears under its name only when :meth:`commit` is called.

    Raises:
        SetupError: the file cannot be written.
    """

    def __init__(self, path: Path, option: str = "--output-dir") -> None:
        self.path = path
        self._part = path.with_name(path.name + PART)
        try:
            self.stream: BinaryIO = self._part.open("wb")
        except OSError as error:
            raise SetupError(
                f"{option} {path} cannot be written ({error.strerror}): name another file", code="output_unwritable"
            ) from error

    def commit(self) -> None:
        """Flush the file to disk and rename it to its final name."""
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.stream.close()
        self._part.replace(self.path)

    def keep(self, empty: bool) -> Path | None:
        """Close the partial file and return its path; if it is empty, remove it and return None."""
        self.stream.close()
        if empty:
            self._part.unlink(missing_ok=True)
            return None
        return self._part

    def discard(self) -> None:
        """Remove the partial file."""
        self.stream.close()
        self._part.unlink(missing_ok=True)


def _base(name: str) -> str:
    return "stdin" if name == "-" else Path(name).name


def _stem(name: str) -> str:
    return Path(_base(name)).stem or _base(name)
