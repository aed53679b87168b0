"""Settings for reading documents, from a checkpoint's ``document_config.json`` or a preset (``presets.py``)."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from mindnlp_ocr.config import read_json
from mindnlp_ocr.errors import SetupError

FILE = "document_config.json"
LayoutChoice = Literal["auto", "lines", "page", "model"]
PresetName = Literal["mineru", "nanonets", "olmocr", "olmocr2", "plain", "rolmocr"]  # presets that the package contains
PageAnswer = Literal["text", "markdown", "olmocr", "front_matter"]
Settings = TypeVar("Settings", bound="DocumentSettings")


class LineSettings(BaseModel):
    """Settings for reading crops of single lines.

    Attributes:
        prompt: the text that follows the image of a line.
        height: height of the crop in pixels, a multiple of the merged patch.
        stretch: factor by which crops are stretched horizontally.
        margin: margin around the detected line, as a share of its height.
        max_width: maximum width of a crop in pixels; longer lines are split at a gap, and their texts joined.
        min_confidence: a crop that was read with a lower confidence is read again with ``stretch_again``, and the more
            confident reading counts; 0: never. This needs the settings of the confidence.
        stretch_again: factor by which such a crop is stretched, as far as ``max_width`` permits.
        max_new_tokens: maximum number of new tokens for one line.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str
    height: PositiveInt = 28
    stretch: PositiveFloat = 1.0
    margin: Annotated[float, Field(ge=0, le=1)] = 0.0
    max_width: PositiveInt = 1540
    min_confidence: Annotated[float, Field(ge=0, le=1)] = 0.0
    stretch_again: PositiveFloat = 1.0
    max_new_tokens: PositiveInt = 192


class BlockSampling(BaseModel):
    """Sampling parameters for one kind of block, with the names and defaults of mineru-vl-utils."""

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
    """Settings of ``--layout model``: the model detects the blocks of a page, then reads each block or each line.

    Attributes:
        image_size: width and height in pixels of the image in which the model detects blocks.
        prompts: prompts by kind of block, including "[layout]" and "[default]", that replace those of mineru-vl-utils.
        sampling: sampling parameters by kind of block, likewise.
        image_analysis: whether the model describes pictures and charts.
        most_boxes: maximum number of blocks of a page; further blocks are omitted.
        read_by: "blocks": each block is read in one request; "lines": the lines of the page are detected and read one by
            one, and each is put into the block in which it lies.
        fill_gaps: whether lines outside all blocks are detected and read, too.
        table_structure: whether the model is also asked for the cells of each table if a page is read by lines.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: tuple[PositiveInt, PositiveInt] = (1036, 1036)
    prompts: dict[str, str] = {}
    sampling: dict[str, BlockSampling] = {}
    image_analysis: bool = False
    most_boxes: PositiveInt = 300
    read_by: Literal["blocks", "lines"] = "blocks"
    fill_gaps: bool = True
    table_structure: bool = False


class ConfidenceSettings(BaseModel):
    """Parameters for estimating the probability that a line is correct.

    The estimate is a logistic function of two logarithms: of the absolute value of the lowest log-probability of its tokens,
    and of the absolute value of their sum. The checkpoint's README describes the pages to which it was fitted.

    Attributes:
        bias: bias of the logistic function.
        lowest: factor of the logarithm of the lowest log-probability.
        total: factor of the logarithm of the sum of all log-probabilities.
        threshold: lines with a lower confidence are doubtful.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bias: float = 0.0
    lowest: float = 0.0
    total: float = -1.0
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5


class DocumentSettings(BaseModel):
    """The settings that a checkpoint or a preset declares. By default, whole pages are read in one request.

    Attributes:
        layout: the layout with ``--layout auto``.
        page_prompt: prompt for a whole page; {width} and {height} are replaced by its size in pixels.
        page_prompt_first: whether the prompt precedes the image.
        page_max_pixels: with layout "lines" or "model", images up to this number of pixels are read as whole pages; 0: none.
        page_min_confidence: a page that layout "auto" read whole with a lower confidence is read again by lines, if the
            checkpoint reads lines, and the more confident reading counts; 0: never.
        page_longest_side: maximum side in pixels of whole pages; larger pages are shrunk.
        page_max_new_tokens: maximum number of new tokens for a whole page; null: the model's limit.
        page_answer: format of the answer for a whole page: "text", "markdown", "olmocr" (JSON with the text in Markdown
            and the rotation that the page needs), or "front_matter" (the same in YAML before the Markdown).
        lines: settings for reading line crops; null if the checkpoint does not read them.
        model_layout: settings for detecting blocks; null if the checkpoint does not detect them.
        confidence: parameters of the confidence; null if no confidence is estimated.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Literal["lines", "page", "model"] = "page"
    page_prompt: str = "Extract all text from this image."
    page_prompt_first: bool = False
    page_max_pixels: Annotated[int, Field(ge=0)] = 0
    page_min_confidence: Annotated[float, Field(ge=0, le=1)] = 0.0
    page_longest_side: PositiveInt | None = None
    page_max_new_tokens: PositiveInt | None = None
    page_answer: PageAnswer = "text"
    lines: LineSettings | None = None
    model_layout: ModelLayoutSettings | None = None
    confidence: ConfidenceSettings | None = None

    @classmethod
    def from_folder(cls, folder: Path) -> "DocumentSettings":
        """Read the file, or return the defaults if it does not exist.

        Raises:
            SetupError: the file is not JSON, or a setting is unknown or invalid.
        """
        path = folder / FILE
        return cls.checked(read_json(path), path) if path.exists() else cls()

    @classmethod
    def checked(cls: type[Settings], given: dict[str, Any], path: Path) -> Settings:
        """Validate the settings of a file.

        Raises:
            SetupError: a setting is unknown or invalid.
        """
        try:
            settings = cls(**given)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise SetupError(f"{path} cannot be used: {where}: {first['msg']}", code="document_config_invalid") from error
        if settings.layout == "lines" and settings.lines is None:
            raise SetupError(
                f"{path} cannot be used: layout is 'lines', but it has no settings for lines: add them",
                code="document_config_invalid",
            )
        if settings.layout == "model" and settings.model_layout is None:
            raise SetupError(
                f"{path} cannot be used: layout is 'model', but it has no model_layout: add it, {{}} suffices",
                code="document_config_invalid",
            )
        if settings.model_layout and settings.model_layout.read_by == "lines" and settings.lines is None:
            raise SetupError(
                f"{path} cannot be used: read_by is 'lines', but it has no settings for lines: add them",
                code="document_config_invalid",
            )
        return settings
