"""A reader that sleeps instead of reading, for measuring the overhead of a farm."""

import time
from collections.abc import Iterator, Sequence

from mindnlp_ocr.documents.result import Page
from mindnlp_ocr.farm.settings import FarmSettings, Wanted

READER = "mindnlp_ocr.bench.sleeping:SleepingReader"


class SleepingReader:
    """Sleeps for ``min_pixels`` milliseconds per page."""

    def __init__(self, settings: FarmSettings) -> None:
        self._seconds = (settings.arguments["min_pixels"] or 0) / 1000

    def read(self, wanted: Sequence[Wanted]) -> Iterator[Page]:
        """Yield an empty page for each requested page."""
        for _, _, numbers in wanted:
            for index in numbers:
                time.sleep(self._seconds)
                yield Page(number=index + 1)
