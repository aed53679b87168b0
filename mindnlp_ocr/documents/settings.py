"""How a checkpoint wants documents to be read: ``document_config.json`` in its folder."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from mindnlp_ocr.config import read_json
from mindnlp_ocr.errors import SetupError

FILE = "document_config.json"
LayoutChoice = Literal["auto", "lines", "page"]


class LineSettings(BaseModel):
    """How crops of single lines are read.

    Attributes:
        prompt: the text that follows the image of a line.
        height: pixels of the crop; a multiple of the merged patch.
        stretch: how much wider than its own shape a crop is made.
        margin: blank space added above and below the detected line, as a share of its height.
        max_width: pixels; longer lines are cut at a gap and joined again.
        max_new_tokens: longest answer for one line.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str
    height: PositiveInt = 28
    stretch: PositiveFloat = 1.0
    margin: Annotated[float, Field(ge=0, le=1)] = 0.0
    max_width: PositiveInt = 1540
    max_new_tokens: PositiveInt = 192


class ConfidenceSettings(BaseModel):
    """The probability that a line is right, from the log-probabilities of its tokens: a logistic function of the logarithms
    of the lowest one and of their sum, both without their sign. The checkpoint's README says on which pages it was fitted.

    Attributes:
        bias: of the logistic function.
        lowest: factor of the logarithm of the lowest log-probability.
        total: factor of the logarithm of the sum of all log-probabilities.
        threshold: lines below it are doubtful.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bias: float = 0.0
    lowest: float = 0.0
    total: float = -1.0
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5


class DocumentSettings(BaseModel):
    """What a checkpoint declares, or the defaults of one that declares nothing: whole pages in one request.

    Attributes:
        layout: how pages are read where the user leaves the choice.
        page_prompt: the text that follows the image of a whole page.
        page_max_pixels: with layout "lines", pictures up to this area are read whole; 0: none are.
        lines: how line crops are read; None where the checkpoint does not read them.
        confidence: how a confidence is estimated; None where it is not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Literal["lines", "page"] = "page"
    page_prompt: str = "Extract all text from this image."
    page_max_pixels: Annotated[int, Field(ge=0)] = 0
    lines: LineSettings | None = None
    confidence: ConfidenceSettings | None = None

    @classmethod
    def from_folder(cls, folder: Path) -> "DocumentSettings":
        """Read the file, or take the defaults where there is none.

        Raises:
            SetupError: the file is not JSON, or a setting is unknown or has no possible value.
        """
        path = folder / FILE
        if not path.exists():
            return cls()
        try:
            settings = cls(**read_json(path))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise SetupError(f"{path} cannot be used: {where}: {first['msg']}") from error
        if settings.layout == "lines" and settings.lines is None:
            raise SetupError(f"{path} cannot be used: layout is 'lines', but it has no settings for lines: add them")
        return settings
