"""OCR engine plugin for OCRmyPDF: ``ocrmypdf --plugin mindnlp_ocr.documents.ocrmypdf_plugin in.pdf out.pdf``.

OCRmyPDF renders, rotates, cleans and compresses pages and writes PDF/A; this engine reads them. OCRmyPDF processes several
pages concurrently, in threads or in processes. MindSpore supports neither a fork after it was loaded nor concurrent calls
from several threads. Therefore, a process loads the model at its first page, in a thread that reads all of its pages.
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
from mindnlp_ocr.errors import SetupError, coded

log = logging.getLogger(__name__)

_ASKS = "options" in inspect.signature(pluginspec.get_ocr_engine).parameters  # true from OCRmyPDF 17 on
_TESSERACT = "ocrmypdf.builtin_plugins.tesseract_ocr"


class Choice(NamedTuple):
    """The model and the device that the command-line options select."""

    model: str | None = None
    device: str = "cpu"


class Reader(Protocol):
    """The interface of ``DocumentReader`` that the plugin uses."""

    def read_image(self, image: Image.Image, number: int = 1, dpi: float | None = None) -> Page: ...


def load(choice: Choice) -> Reader:
    """Load the reader of this process."""
    from mindnlp_ocr.documents.reader import DocumentReader
    from mindnlp_ocr.models.qwen2vl import EMBEDDED, Qwen2VLModel
    from mindnlp_ocr.ops.device import Device

    device = Device.parse(choice.device)
    device.check()
    reader: Reader = DocumentReader(Qwen2VLModel(choice.model or EMBEDDED, device))
    return reader


class _Reading:
    """The reading thread of this process, and the readers that it has loaded."""

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
    """Reset the state in a forked process, which inherits the memory of the reading thread but not the thread."""
    global _lock
    _lock = threading.Lock()
    _reading.cache_clear()


os.register_at_fork(after_in_child=_begin_anew)


def read(path: Path, choice: Choice) -> Page:
    """Read a page in the reading thread. May be called from several threads."""
    with _lock:
        reading = _reading()
    return reading.read(path, choice)


class TextPdfWriter(PdfWriter):
    """A PDF of invisible text. OCRmyPDF merges only a font with this name, which is the name that Tesseract uses."""

    font_name = "/f-0-0"


class MindNLPEngine(OcrEngine):
    """Implementation of OCRmyPDF's engine interface."""

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
        """Return no languages, so that OCRmyPDF rejects none; the model ignores ``--language``."""
        return set()

    @staticmethod
    def get_orientation(input_file: Path, options: Any) -> OrientationConfidence:
        """Report no rotation: the reader itself handles rotated pages, and places their text where it is."""
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
        raise BadArgsError(coded(error, error.code)) from error
    for warning in page.warnings:
        log.warning(warning)
    if page.error is not None:
        log.error(coded(page.error, page.error_code))
    with Path(output).open("wb") as stream, kind(stream) as writer:
        writer.begin(Path(input_file).name)
        writer.page(page)
        writer.end()
    Path(output_text).write_text(page.text, encoding="utf-8", errors="replace")


@hookimpl
def initialize(plugin_manager: Any) -> None:
    """Disable OCRmyPDF's check for Tesseract if Tesseract is not installed, since this engine does not need it."""
    module = plugin_manager.get_plugin(_TESSERACT)
    if module is None or shutil.which("tesseract") is not None:
        return
    kept = {name: value for name, value in vars(module).items() if name not in ("check_options", "get_ocr_engine")}
    plugin_manager.unregister(module)
    plugin_manager.register(SimpleNamespace(**kept), _TESSERACT)


@hookimpl
def check_options(options: Any) -> None:
    """Choose the PDF renderer if the user does not.

    The default is our own text layer ("sandwich"), which supports lines at any angle and needs no fonts for Chinese.
    OCRmyPDF 16 takes the font of all pages from the first page, so "hocr" is used there.
    """
    if _ASKS and options.pdf_renderer == "auto" and options.ocr_engine == "auto":
        options.pdf_renderer = "sandwich"
    elif not _ASKS and options.pdf_renderer in ("auto", "sandwich"):
        options.pdf_renderer = "hocr"


@hookimpl
def add_options(parser: ArgumentParser) -> None:
    """Add the options of this engine to the command line of OCRmyPDF."""
    group = parser.add_argument_group("mindnlp-ocr", "options of the mindnlp-ocr engine")
    group.add_argument(
        "--mindnlp-model",
        metavar="PATH",
        help="folder of a Qwen2-VL checkpoint or merged .npz file (default: the built-in model)",
    )
    group.add_argument(
        "--mindnlp-device", metavar="DEVICE", default="cpu", help="device: cpu, npu:0 or Ascend (default: cpu)"
    )


def _engine_16() -> MindNLPEngine:
    """Return this engine (OCRmyPDF 16)."""
    return MindNLPEngine()


def _engine_17(options: Any) -> MindNLPEngine | None:
    """Return this engine, unless ``--ocr-engine`` names another one (OCRmyPDF 17)."""
    return MindNLPEngine() if getattr(options, "ocr_engine", "auto") == "auto" else None


get_ocr_engine = hookimpl(_engine_17 if _ASKS else _engine_16)
