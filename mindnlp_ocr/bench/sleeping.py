"""A reader that sleeps in place of reading, for farms whose overhead is measured."""

import time
from collections.abc import Iterator, Sequence

from mindnlp_ocr.documents.result import Page
from mindnlp_ocr.farm.settings import FarmSettings, Wanted

READER = "mindnlp_ocr.bench.sleeping:SleepingReader"


class SleepingReader:
    """Takes as many milliseconds a page as ``min_pixels`` says, and no processor time."""

    def __init__(self, settings: FarmSettings) -> None:
        self._seconds = (settings.arguments["min_pixels"] or 0) / 1000

    def read(self, wanted: Sequence[Wanted]) -> Iterator[Page]:
        """An empty page for each that is wanted."""
        for _, _, numbers in wanted:
            for index in numbers:
                time.sleep(self._seconds)
                yield Page(number=index + 1)
