"""How a checkpoint wants documents to be read: ``document_config.json`` in its folder, or a preset (``presets.py``)."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from mindnlp_ocr.config import read_json
from mindnlp_ocr.errors import SetupError

FILE = "document_config.json"
LayoutChoice = Literal["auto", "lines", "page", "model"]
PresetName = Literal["mineru", "nanonets", "olmocr", "olmocr2", "plain", "rolmocr"]  # those that ship with the package
PageAnswer = Literal["text", "markdown", "olmocr", "front_matter"]
Settings = TypeVar("Settings", bound="DocumentSettings")


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


class BlockSampling(BaseModel):
    """How the text of one kind of block is chosen, under the names of mineru-vl-utils; what is left out is as it has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: PositiveFloat | None = None
    no_repeat_ngram_size: Annotated[int, Field(ge=0)] | None = None
    max_new_tokens: PositiveInt | None = None


class ModelLayoutSettings(BaseModel):
    """How ``--layout model`` works: the model finds the blocks of a page, then reads each.

    Attributes:
        image_size: width and height in pixels of the picture in which blocks are looked for.
        prompts: by kind of block, "[layout]" and "[default]" among them, in place of those of mineru-vl-utils.
        sampling: the same of how tokens are chosen.
        image_analysis: whether pictures and charts are described.
        most_boxes: boxes of one page; what follows is left out.
        fill_gaps: whether lines outside of all boxes are looked for, and read by themselves.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: tuple[PositiveInt, PositiveInt] = (1036, 1036)
    prompts: dict[str, str] = {}
    sampling: dict[str, BlockSampling] = {}
    image_analysis: bool = False
    most_boxes: PositiveInt = 300
    fill_gaps: bool = True


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
    """What a checkpoint or a preset declares, or the defaults where nothing does: whole pages in one request.

    Attributes:
        layout: how pages are read where the user leaves the choice.
        page_prompt: the text that goes with the image of a whole page; {width} and {height} stand for its pixels.
        page_prompt_first: whether that text stands before the image.
        page_max_pixels: with layout "lines" or "model", pictures up to this area are read whole; 0: none are.
        page_longest_side: pixels to which larger pages are shrunk before they are read whole.
        page_max_new_tokens: longest answer for a whole page; null: the model's own.
        page_answer: what the model answers for a whole page: "text", "markdown", or "olmocr": JSON with the text in
            Markdown and the turn that the page needs, or "front_matter": the same in YAML ahead of the Markdown.
        lines: how line crops are read; null where the checkpoint does not read them.
        model_layout: how the model finds the blocks of a page; null where it does not.
        confidence: how a confidence is estimated; null where it is not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Literal["lines", "page", "model"] = "page"
    page_prompt: str = "Extract all text from this image."
    page_prompt_first: bool = False
    page_max_pixels: Annotated[int, Field(ge=0)] = 0
    page_longest_side: PositiveInt | None = None
    page_max_new_tokens: PositiveInt | None = None
    page_answer: PageAnswer = "text"
    lines: LineSettings | None = None
    model_layout: ModelLayoutSettings | None = None
    confidence: ConfidenceSettings | None = None

    @classmethod
    def from_folder(cls, folder: Path) -> "DocumentSettings":
        """Read the file, or take the defaults where there is none.

        Raises:
            SetupError: the file is not JSON, or a setting is unknown or has no possible value.
        """
        path = folder / FILE
        return cls.checked(read_json(path), path) if path.exists() else cls()

    @classmethod
    def checked(cls: type[Settings], given: dict[str, Any], path: Path) -> Settings:
        """Settings as a file gives them.

        Raises:
            SetupError: a setting is unknown or has no possible value.
        """
        try:
            settings = cls(**given)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise SetupError(f"{path} cannot be used: {where}: {first['msg']}") from error
        if settings.layout == "lines" and settings.lines is None:
            raise SetupError(f"{path} cannot be used: layout is 'lines', but it has no settings for lines: add them")
        if settings.layout == "model" and settings.model_layout is None:
            raise SetupError(f"{path} cannot be used: layout is 'model', but it has no model_layout: add it, {{}} suffices")
        return settings
