"""Readers in the place of a model, and documents for them."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from mindnlp_ocr.documents.result import Block, Box, Line, Page
from mindnlp_ocr.errors import PageError, SetupError
from mindnlp_ocr.farm.settings import FarmSettings, Wanted


class FakeReader:
    """Gives a text for every page, after a while. The prompt says what else happens, to which pages:
    "crash NAME:INDEX", "crash-all NAME:INDEX" (its parent too), "raise NAME:INDEX", "sleep SECONDS"."""

    def __init__(self, settings: FarmSettings) -> None:
        words = (settings.arguments["prompt"] or "").split()
        self._asked = list(zip(words[::2], words[1::2], strict=True))
        self._log = settings.arguments["password"]  # a file for a line of every page that is begun
        self._seconds = float(dict(self._asked).get("sleep", 0))
        if ("no", "model") in self._asked:
            raise SetupError("there is no model: give one")

    def read(self, wanted: Sequence[Wanted]) -> Iterator[Page]:
        for name, place, numbers in wanted:
            stem = Path(place).name
            for index in numbers:
                if self._log:
                    with Path(self._log).open("a", encoding="utf-8") as log:
                        log.write(f"{stem}:{index}\n")
                self._happens(f"{stem}:{index}")
                line = Line(text=f"{name} {index}", box=Box(1, 2, 30, 4))
                block = Block(box=line.box, lines=(line,))
                yield Page(number=index + 1, width=40, height=40, blocks=(block,), timings_ms={"x": time.monotonic()})

    def _happens(self, page: str) -> None:
        time.sleep(self._seconds)
        if ("crash", page) in self._asked:
            os.kill(os.getpid(), signal.SIGSEGV)
        if ("crash-all", page) in self._asked:
            if "mindnlp_ocr.farm.alone" in Path("/proc/self/cmdline").read_text(encoding="utf-8"):
                os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        if ("raise", page) in self._asked:
            raise ValueError("nothing that a page should do")
        if ("refuse", page) in self._asked:
            raise PageError("refused: use another")


READER = "tests.farm.fakes:FakeReader"


def tiff(path: Path, pages: int) -> Path:
    """A document of several pages."""
    first, *others = [Image.new("L", (8, 8), number % 256) for number in range(pages)]
    first.save(path, save_all=True, append_images=others)
    return path
