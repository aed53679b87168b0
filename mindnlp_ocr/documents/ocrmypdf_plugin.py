"""An engine for OCRmyPDF: ``ocrmypdf --plugin mindnlp_ocr.documents.ocrmypdf_plugin in.pdf out.pdf``.

OCRmyPDF renders, turns, cleans and compresses pages and writes PDF/A; this engine reads them. OCRmyPDF works on several
pages at a time, in threads or in processes. MindSpore stands neither a fork after it was loaded nor calls from several
threads at once: so a process loads the model when its first page comes, in a thread that does all of its reading.
"""

import inspect
import logging
import os
import shutil
import threading
from argparse import ArgumentParser
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

from ocrmypdf import hookimpl, pluginspec
from ocrmypdf.exceptions import BadArgsError
from ocrmypdf.pluginspec import OcrEngine, OrientationConfidence
from PIL import Image

from mindnlp_ocr import __version__
from mindnlp_ocr.documents.result import Page
from mindnlp_ocr.documents.writers import Writer
from mindnlp_ocr.documents.writers.hocr import HocrWriter
from mindnlp_ocr.documents.writers.pdf import PdfWriter
from mindnlp_ocr.errors import SetupError

log = logging.getLogger(__name__)

_ASKS = "options" in inspect.signature(pluginspec.get_ocr_engine).parameters  # as OCRmyPDF does from release 17 on
_TESSERACT = "ocrmypdf.builtin_plugins.tesseract_ocr"


class Choice(NamedTuple):
    """Which model reads, and where; what the options of the command line say."""

    model: str | None = None
    device: str = "cpu"


class Reader(Protocol):
    """What reads pages: a ``DocumentReader``."""

    def read_image(self, image: Image.Image, number: int = 1, dpi: float | None = None) -> Page: ...


def load(choice: Choice) -> Reader:
    """The reader of this process; it is loaded once."""
    from mindnlp_ocr.documents.reader import DocumentReader
    from mindnlp_ocr.models.qwen2vl import EMBEDDED, Qwen2VLModel
    from mindnlp_ocr.ops.device import Device

    device = Device.parse(choice.device)
    device.check()
    reader: Reader = DocumentReader(Qwen2VLModel(choice.model or EMBEDDED, device))
    return reader


class _Reading:
    """The thread that reads, and the readers that it has loaded; of this process alone."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "mindnlp-ocr")
        self._readers: dict[Choice, Reader] = {}

    def read(self, path: Path, choice: Choice) -> Page:
        return self._thread.submit(self._read, path, choice).result()

    def _read(self, path: Path, choice: Choice) -> Page:
        reader = self._readers.get(choice)
        if reader is None:
            reader = self._readers[choice] = load(choice)
        with Image.open(path) as image:
            dpi = image.info.get("dpi", (None,))[0]
            page = reader.read_image(image.convert("RGB"), 1, float(dpi) if dpi else None)
            return page.model_copy(update={"width": image.width, "height": image.height})


_lock = threading.Lock()


@lru_cache(maxsize=1)
def _reading() -> _Reading:
    return _Reading()


def _begin_anew() -> None:
    """What a fork copies is the memory of the reading thread, without the thread."""
    global _lock
    _lock = threading.Lock()
    _reading.cache_clear()


os.register_at_fork(after_in_child=_begin_anew)


def read(path: Path, choice: Choice) -> Page:
    """Read a page, while other threads wait for theirs."""
    with _lock:
        reading = _reading()
    return reading.read(path, choice)


class TextPdfWriter(PdfWriter):
    """A PDF of invisible text. OCRmyPDF takes over the font of this name, which is that of Tesseract, and no other."""

    font_name = "/f-0-0"


class MindNLPEngine(OcrEngine):
    """What OCRmyPDF asks of an engine."""

    @staticmethod
    def version() -> str:
        return __version__

    @staticmethod
    def creator_tag(options: Any) -> str:
        return f"mindnlp-ocr {__version__}"

    def __str__(self) -> str:
        return f"mindnlp-ocr {__version__}"

    @staticmethod
    def languages(options: Any) -> set[str]:
        """None are listed, so OCRmyPDF refuses none: the model reads what it was trained on, and no ``--language``."""
        return set()

    @staticmethod
    def get_orientation(input_file: Path, options: Any) -> OrientationConfidence:
        """Not asked of the model: a page on its side is read as it lies, and its text is put where it stands."""
        return OrientationConfidence(angle=0, confidence=0.0)

    @staticmethod
    def generate_hocr(input_file: Path, output_hocr: Path, output_text: Path, options: Any) -> None:
        _write(HocrWriter, input_file, output_hocr, output_text, options)

    @staticmethod
    def generate_pdf(input_file: Path, output_pdf: Path, output_text: Path, options: Any) -> None:
        _write(TextPdfWriter, input_file, output_pdf, output_text, options)


def _write(kind: Callable[..., Writer], input_file: Path, output: Path, output_text: Path, options: Any) -> None:
    choice = Choice(getattr(options, "mindnlp_model", None), getattr(options, "mindnlp_device", None) or "cpu")
    try:
        page = read(Path(input_file), choice)
    except SetupError as error:
        raise BadArgsError(str(error)) from error
    for warning in page.warnings:
        log.warning(warning)
    if page.error is not None:
        log.error(page.error)
    with Path(output).open("wb") as stream, kind(stream) as writer:
        writer.begin(Path(input_file).name)
        writer.page(page)
        writer.end()
    Path(output_text).write_text(page.text, encoding="utf-8", errors="replace")


@hookimpl
def initialize(plugin_manager: Any) -> None:
    """Where Tesseract is not installed, leave out the check for it: OCRmyPDF would not start, though nothing needs it."""
    module = plugin_manager.get_plugin(_TESSERACT)
    if module is None or shutil.which("tesseract") is not None:
        return
    kept = {name: value for name, value in vars(module).items() if name not in ("check_options", "get_ocr_engine")}
    plugin_manager.unregister(module)
    plugin_manager.register(SimpleNamespace(**kept), _TESSERACT)


@hookimpl
def check_options(options: Any) -> None:
    """Choose what puts the text into the PDF, where the user leaves it open.

    That is our own text layer ("sandwich"), which knows lines at any angle and needs no fonts for Chinese. OCRmyPDF 16 takes
    the font of all pages from the first, so there it cannot be ours.
    """
    if _ASKS and options.pdf_renderer == "auto" and options.ocr_engine == "auto":
        options.pdf_renderer = "sandwich"
    elif not _ASKS and options.pdf_renderer in ("auto", "sandwich"):
        options.pdf_renderer = "hocr"


@hookimpl
def add_options(parser: ArgumentParser) -> None:
    """The options of this engine."""
    group = parser.add_argument_group("mindnlp-ocr", "the engine that reads the pages")
    group.add_argument(
        "--mindnlp-model", metavar="PATH", help="a Qwen2-VL folder or merged .npz (default: the built-in model)"
    )
    group.add_argument("--mindnlp-device", metavar="DEVICE", default="cpu", help="cpu, npu:0 or Ascend (default: cpu)")


def _engine_16() -> MindNLPEngine:
    """This engine."""
    return MindNLPEngine()


def _engine_17(options: Any) -> MindNLPEngine | None:
    """This engine, unless ``--ocr-engine`` names another."""
    return MindNLPEngine() if getattr(options, "ocr_engine", "auto") == "auto" else None


get_ocr_engine = hookimpl(_engine_17 if _ASKS else _engine_16)
