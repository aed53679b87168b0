"""Reading of whole pages in one request, with the answer format of the settings."""

from dataclasses import dataclass

from PIL import Image

from mindnlp_ocr.documents.answers import front_matter_answer, markdown_blocks, marked_cut, olmocr_answer
from mindnlp_ocr.documents.placing import placed_back
from mindnlp_ocr.documents.readings import Readings, messages
from mindnlp_ocr.documents.result import Block, Box, Rotation
from mindnlp_ocr.documents.settings import DocumentSettings
from mindnlp_ocr.engine.generate import Reading
from mindnlp_ocr.errors import PageError
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
from mindnlp_ocr.models.requests import Request


@dataclass(frozen=True)
class WholePage:
    """The result of an answer.

    Attributes:
        rotation: degrees by which the page was rotated clockwise to be read.
    """

    blocks: tuple[Block, ...]
    timings_ms: dict[str, float]
    rotation: Rotation = 0
    warnings: tuple[str, ...] = ()


class WholePages:
    """Creates the requests for whole pages, and parses the answers.

    Args:
        prompt: replaces the prompt of the settings.
        max_new_tokens: replaces the limit of the settings.
    """

    def __init__(
        self,
        model: Qwen2VLModel,
        settings: DocumentSettings,
        readings: Readings,
        prompt: str | None,
        max_new_tokens: int | None,
    ) -> None:
        self._model, self._settings, self._readings = model, settings, readings
        self._prompt = prompt or settings.page_prompt
        self._max_new_tokens = max_new_tokens or settings.page_max_new_tokens

    @property
    def streams(self) -> bool:
        """Whether the answer is plain text, which can be streamed."""
        return self._settings.page_answer == "text"

    def request(self, image: Image.Image) -> Request:
        """Create the request for an RGB page."""
        prompt = self._prompt
        for name, value in (("{width}", image.width), ("{height}", image.height)):
            prompt = prompt.replace(name, str(value))
        longest = self._settings.page_longest_side
        if longest is not None and max(image.size) > longest:
            scale = longest / max(image.size)
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            image = image.resize(size, Image.Resampling.LANCZOS)
        return Request(messages(image, prompt, self._settings.page_prompt_first), self._max_new_tokens)

    def read(self, reading: Reading, image: Image.Image) -> WholePage:
        """Parse an answer. If the model reports that the page is rotated, the page is rotated and read again."""
        answer = self._settings.page_answer
        if answer == "text":
            return WholePage(self._readings.whole(reading, image.size), reading.timings_ms)
        text, cut = self._readings.text(reading)
        timings, warnings = dict(reading.timings_ms), list[str]()
        rotation: Rotation = 0
        if answer in ("olmocr", "front_matter"):
            parse = olmocr_answer if answer == "olmocr" else front_matter_answer
            found, warning = parse(text)
            if found.turn:
                rotation = found.turn
                try:
                    request = self.request(image.rotate(-rotation, expand=True))
                    reading = self._model.generate(request.messages, request.max_new_tokens)
                    text, cut = self._readings.text(reading)
                    found, warning = parse(text)
                    timings = {name: value + timings.get(name, 0) for name, value in reading.timings_ms.items()}
                except PageError as error:
                    rotation, warning = (
                        0,
                        f"The page is rotated, but could not be read again after it was turned upright: {error}",
                    )
            warnings += [warning] if warning is not None else []
            text = found.natural_text or ""
        confidence, doubtful = self._readings.estimate(reading.logprobs)
        width, height = image.size if rotation in (0, 180) else image.size[::-1]
        blocks = markdown_blocks(text, Box(0, 0, width, height), confidence=confidence, doubtful=doubtful)
        return WholePage(marked_cut(placed_back(blocks, rotation, image.size), cut), timings, rotation, tuple(warnings))
