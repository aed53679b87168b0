"""What extracts the text of a PDF."""

import pytest

from tests.documents.writers.pdfs import Read, by_pdfium, by_poppler


@pytest.fixture(params=[by_pdfium, by_poppler])
def read(request: pytest.FixtureRequest) -> Read:
    """What extracts text: PDFium always, poppler where it is installed."""
    return request.param  # type: ignore[no-any-return]
