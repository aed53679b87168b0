"""Millions of pages on the machines of a Ray cluster: ``mindnlp-ocr batch``."""
