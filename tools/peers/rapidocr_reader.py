"""Reader with RapidOCR (PaddleOCR's models on ONNX Runtime) and its defaults; the lines stay in the order of its result."""

import time
from typing import Any

from common import Reader, untokenized
from rapidocr import RapidOCR


class Rapid(Reader):
    packages = ("rapidocr", "onnxruntime")

    def __init__(self) -> None:
        self._read = RapidOCR(params={"Global.log_level": "error"})

    def read(self, path: str) -> dict[str, Any]:
        start = time.perf_counter()
        found = self._read(path)
        return untokenized("\n".join(found.txts or ()), start)


def open_reader() -> Reader:
    return Rapid()
