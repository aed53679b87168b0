"""A page that several files of tests read."""

import pytest
from PIL import Image

from tests.conftest import ROOT


@pytest.fixture(scope="session")
def letter() -> Image.Image:
    """A page at the size of a scan, with lines that the detector finds."""
    with Image.open(ROOT / "examples" / "letter.png") as image:
        return image.convert("RGB").resize((image.width * 2, image.height * 2), Image.Resampling.LANCZOS)
