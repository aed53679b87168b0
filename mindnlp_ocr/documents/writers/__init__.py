"""The output formats, each a subclass of :class:`Writer` in its own file."""

from mindnlp_ocr.documents.writers.alto import AltoWriter
from mindnlp_ocr.documents.writers.base import PagePicture, Writer
from mindnlp_ocr.documents.writers.hocr import HocrWriter
from mindnlp_ocr.documents.writers.json import JsonLinesWriter, JsonWriter
from mindnlp_ocr.documents.writers.markdown import MarkdownWriter
from mindnlp_ocr.documents.writers.pdf import PdfWriter
from mindnlp_ocr.documents.writers.text import TextWriter
from mindnlp_ocr.documents.writers.tsv import TsvWriter

FORMATS: dict[str, type[Writer]] = {
    "text": TextWriter,
    "markdown": MarkdownWriter,
    "json": JsonWriter,
    "jsonl": JsonLinesWriter,
    "tsv": TsvWriter,
    "hocr": HocrWriter,
    "alto": AltoWriter,
    "pdf": PdfWriter,
}

__all__ = ["FORMATS", "PagePicture", "Writer"]
