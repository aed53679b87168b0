"""A run over many documents, which writes every document when it is complete and reports errors."""

import errno
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from mindnlp_ocr.documents.files import OutputFile, OutputFolder
from mindnlp_ocr.documents.reader import DocumentReader
from mindnlp_ocr.documents.result import Page
from mindnlp_ocr.documents.source import SourcePage
from mindnlp_ocr.documents.stream import Begun, DocumentStream, PageRead
from mindnlp_ocr.documents.writers import FORMATS, PagePicture, Writer
from mindnlp_ocr.documents.writers.text import TextWriter
from mindnlp_ocr.errors import PageError, SetupError, coded


class Target(ABC):
    """Destination of documents."""

    def begin(self, name: str) -> None:
        """Begin a document."""
        self.writer(name).begin(name)

    @abstractmethod
    def writer(self, name: str) -> Writer:
        """Return the writer of a document."""

    @abstractmethod
    def end(self, name: str, error: str | None, error_code: str | None) -> None:
        """End a document; ``error`` is its error or None, and ``error_code`` the code of this error."""

    @abstractmethod
    def close(self, **about: Any) -> None:
        """Finish a complete run; ``about`` contains the fields of JSON about the model and its cache."""

    @abstractmethod
    def abort(self) -> None:
        """Clean up after an interrupted run."""


class OneTarget(Target):
    """All documents in one file, or on standard output.

    Args:
        path: the file, which appears when the run is complete; an interrupted run leaves PATH.part. None: standard output.
        heads: whether to write the name of every document before its text.
    """

    def __init__(self, format_name: str, path: str | None, heads: bool) -> None:
        if path is not None and Path(path).is_dir():
            raise SetupError(f"--output {path} cannot be written (Is a directory): name a file", code="output_unwritable")
        self._file = OutputFile(Path(path), "--output") if path is not None else None
        stream: BinaryIO = sys.stdout.buffer if self._file is None else self._file.stream
        self._writer = FORMATS[format_name](stream, heads=heads)
        self.streams = format_name == "text"

    def writer(self, name: str) -> Writer:
        return self._writer

    def end(self, name: str, error: str | None, error_code: str | None) -> None:
        self._writer.end(error, error_code)

    def close(self, **about: Any) -> None:
        self._writer.finish(**about)
        self._writer.close()
        if self._file is not None:
            self._file.commit()

    def abort(self) -> None:
        empty = self._writer.documents == 0
        self._writer.close()
        if self._file is not None and (kept := self._file.keep(empty)):
            tqdm.write(f"partial output is in {kept}", file=sys.stderr)


class FolderTarget(Target):
    """One file for each document. There is no file for a document that cannot be opened."""

    def __init__(self, format_name: str, folder: OutputFolder) -> None:
        self._format, self._folder = FORMATS[format_name], folder
        self._open: tuple[OutputFile, Writer] | None = None

    def writer(self, name: str) -> Writer:
        if self._open is None:
            file = self._folder.open(name)
            self._open = file, self._format(file.stream)
        return self._open[1]

    def end(self, name: str, error: str | None, error_code: str | None) -> None:
        assert self._open is not None
        (file, writer), self._open = self._open, None
        pages = writer.pages
        writer.end(error, error_code)
        writer.close()
        if error is not None and pages == 0:
            file.discard()
        else:
            file.commit()

    def close(self, **about: Any) -> None:
        """Do nothing, since every file is already complete."""

    def abort(self) -> None:
        if self._open is not None:
            self._open[0].discard()


def run(
    stream: DocumentStream,
    reader: DocumentReader,
    names: Sequence[str],
    target: Target,
    *,
    visualize: Path | None = None,
    password: str | None = None,
    progress: bool = False,
    about: Callable[[], dict[str, Any]] = dict,
) -> bool:
    """Read documents into a target. Returns whether every page was read.

    Args:
        visualize: a folder for images of the pages with the results.
        password: password of PDFs, for writers that open them again.
        progress: whether to show a progress bar.
        about: called after all documents were read; returns the fields of JSON about the model and its cache.

    Raises:
        SetupError: the output cannot be written.
    """
    with _writing():
        try:
            whole = None
            if len(names) == 1 and isinstance(target, OneTarget) and target.streams and visualize is None:
                whole = stream.whole_page(names[0])
            if whole is not None:
                good = _stream_page(reader, names[0], whole, target)
            else:
                good = _read(stream, names, target, visualize, password, progress)
        except BaseException:
            target.abort()
            raise
        target.close(**about())
    return good


def _read(
    stream: DocumentStream,
    names: Iterable[str],
    target: Target,
    visualize: Path | None,
    password: str | None,
    progress: bool,
) -> bool:
    good = True
    with tqdm(total=0, unit="page", file=sys.stderr, disable=not progress) as bar:
        for event in stream.read(names):
            if isinstance(event, Begun):
                bar.total = (bar.total or 0) + event.pages
                bar.refresh()
                target.begin(event.name)
            elif isinstance(event, PageRead):
                picture = _picture(event, password)
                target.writer(event.name).page(event.page, picture)
                if visualize is not None and event.page.error is None:
                    _visualized(visualize, event, picture)
                good &= _reported(event)
                bar.update()
            else:
                target.end(event.name, event.error, event.error_code)
                good &= event.error is None
                if event.error is not None:
                    tqdm.write(f"error: {event.name}: {coded(event.error, event.error_code)}", file=sys.stderr)
    return good


def _stream_page(reader: DocumentReader, name: str, source_page: SourcePage, target: Target) -> bool:
    """Read one page in one request, and write its text while it is generated."""
    target.begin(name)
    writer = target.writer(name)
    assert isinstance(writer, TextWriter)
    page = reader.read_image(source_page.image, source_page.number, source_page.dpi, writer.piece)
    writer.page(page)
    target.end(name, None, None)
    for warning in source_page.warnings:
        _warn(f"{name}: {warning}")
    return _reported_page(name, page, "")


def _reported(event: PageRead) -> bool:
    where = f" page {event.page.number}" if event.source.pages > 1 else ""
    return _reported_page(event.name, event.page, where)


def _reported_page(name: str, page: Page, where: str) -> bool:
    for warning in page.warnings:
        _warn(f"{name}{where}: {warning}")
    if page.error is not None:
        tqdm.write(f"error: {name}{where}: {coded(page.error, page.error_code)}", file=sys.stderr)
    return page.error is None


def _warn(text: str) -> None:
    tqdm.write(f"warning: {text}", file=sys.stderr)


def _picture(event: PageRead, password: str | None) -> PagePicture:
    source, index = event.source, event.page.number - 1
    pdf_index = index if source.pdf is not None else None
    return PagePicture(lambda: source.page(index).image, event.page.dpi, source.content, pdf_index, password)


def _visualized(folder: Path, event: PageRead, picture: PagePicture) -> None:
    from mindnlp_ocr.documents.visualize import visualize

    folder.mkdir(parents=True, exist_ok=True)
    stem = "stdin" if event.name == "-" else Path(event.name).name
    suffix = f"-{event.page.number:04}" if event.source.pages > 1 else ""
    try:
        visualize(event.page, picture.image()).save(folder / f"{stem}{suffix}.png")
    except PageError as error:
        tqdm.write(f"warning: {event.name}: no image could be drawn ({error})", file=sys.stderr)


@contextmanager
def _writing() -> Iterator[None]:
    """Convert errors such as a full disk to a SetupError. The caller handles a closed standard output."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO):
            reason = os.strerror(error.errno)
            raise SetupError(
                f"the output cannot be written ({reason}): free some space, or write to another disk", code="output_failed"
            ) from error
        raise
