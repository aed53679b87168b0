"""Documents to lines, blocks and pages: everything between a file and a request to the model."""

from mindnlp_ocr.documents.result import Block, Box, Document, Line, Page, Point

__all__ = ["Block", "Box", "Document", "Line", "Page", "Point"]
