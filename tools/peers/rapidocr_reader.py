"""RapidOCR (PaddleOCR's models on ONNX Runtime) with its defaults: lines in the order that it gives them."""

import time
from typing import Any

from common import Reader, untokenized
from rapidocr_onnxruntime import RapidOCR  # type: ignore[import-not-found, unused-ignore]


class Rapid(Reader):
    packages = ("rapidocr-onnxruntime", "onnxruntime")

    def __init__(self) -> None:
        self._read = RapidOCR()

    def read(self, path: str) -> dict[str, Any]:
        start = time.perf_counter()
        lines, _ = self._read(path)
        return untokenized("\n".join(text for _, text, _ in lines or []), start)


def open_reader() -> Reader:
    return Rapid()
