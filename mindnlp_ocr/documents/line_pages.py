"""Reading of pages line by line: detection, cropping, requests for the lines, and assembly of the results."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from mindnlp_ocr.documents.ahead import added, since
from mindnlp_ocr.documents.crops import crops_of, split_cells, stretched_again
from mindnlp_ocr.documents.detector import Detection, LineDetector, Quad, width
from mindnlp_ocr.documents.order import arranged
from mindnlp_ocr.documents.placing import placed_back, turned
from mindnlp_ocr.documents.readings import Part, Readings, messages
from mindnlp_ocr.documents.result import Block, Line, Rotation
from mindnlp_ocr.documents.settings import LineSettings
from mindnlp_ocr.engine.generate import Reading
from mindnlp_ocr.errors import PageError
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
from mindnlp_ocr.models.requests import Request

ROTATION_LINES = 5  # number of lines that are read in both orientations if the orientation of a page is unclear

UNSURE_CONFIDENCE = 0.7  # minimum confidence of a line of which the detector is not sure


@dataclass
class FoundLines:
    """The detected lines of a page and their outcomes.

    Attributes:
        rotation: degrees by which the page was rotated clockwise.
        quads: corners of the lines on the rotated page.
        sure: for each line, whether the detector is sure that it is text.
        parts: the parts of the lines, one for each request.
    """

    rotation: Rotation = 0
    quads: list[Quad] = field(default_factory=list)
    sure: list[bool] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    timings_ms: dict[str, float] = field(default_factory=dict)


class LinePages:
    """Detects the lines of pages, creates their requests, and assembles the answers.

    Args:
        settings: the settings for crops and requests of lines.
        prompt: replaces the prompt of the settings.
        max_new_tokens: replaces the limit of the settings.
        batch_size: number of concurrent requests.
    """

    def __init__(
        self,
        model: Qwen2VLModel,
        settings: LineSettings,
        readings: Readings,
        detector: LineDetector,
        prompt: str | None,
        max_new_tokens: int | None,
        batch_size: int,
    ) -> None:
        self._model, self._readings, self._detector, self.settings = model, readings, detector, settings
        self._prompt = prompt or settings.prompt
        self._max_new_tokens = max_new_tokens or settings.max_new_tokens
        self._batch_size = batch_size

    def find(self, image: Image.Image) -> FoundLines:
        """Detect the lines of an RGB page, and split them into upright parts of at most the maximum width."""
        lines = FoundLines()
        start = time.perf_counter()
        found = self._detector.detect(image)
        lines.rotation = self._rotation(image, found)
        image, found = turned(image, found, lines.rotation)
        lines.timings_ms["detect"] = since(start)
        start = time.perf_counter()
        for quad, sure in zip(found.quads, found.sure, strict=True):
            for cell in split_cells(image, quad):
                lines.parts += self._parts(image, cell, len(lines.quads), self.settings)
                lines.quads.append(cell)
                lines.sure.append(sure)
        lines.timings_ms["crop"] = since(start)
        return lines

    def read(self, image: Image.Image) -> FoundLines:
        """Detect and read the lines of an RGB page."""
        found = self.find(image)
        self._read(found.parts)
        self.read_again(found.parts)
        return found

    def read_again(self, parts: Sequence[Part]) -> None:
        """Read parts with a low confidence again, from wider crops. The more confident reading of each remains."""
        doubtful: list[tuple[Part, Reading, float, Image.Image]] = []
        for part in parts:
            first = part.outcome
            if not isinstance(first, Reading) or not first.text.strip():
                continue
            confidence, _ = self._readings.estimate(first.logprobs)
            if confidence is not None and confidence < self.settings.min_confidence:
                wider = stretched_again(part.image, self.settings)
                if wider.width > part.image.width:
                    doubtful.append((part, first, confidence, wider))
        requests = (self.request(wider) for *_, wider in doubtful)
        for number, second in self._model.generate_batch(requests, batch_size=self._batch_size) if doubtful else ():
            part, first, confidence, _ = doubtful[number]
            if isinstance(second, PageError) or not second.text.strip():
                continue
            surer = second if (self._readings.estimate(second.logprobs)[0] or 0.0) > confidence else first
            part.outcome = replace(surer, timings_ms=added([first.timings_ms, second.timings_ms]))

    def request(self, image: Image.Image) -> Request:
        """Create the request for one part of a line."""
        return Request(messages(image, self._prompt), self._max_new_tokens)

    def blocks(self, found: FoundLines, size: tuple[int, int]) -> tuple[tuple[Block, ...], dict[str, float], list[str]]:
        """Return the blocks, timings and warnings of a page of this size whose lines were read."""
        failed = [part.outcome for part in found.parts if isinstance(part.outcome, PageError)]
        warnings = [f"{len(failed)} of {len(found.parts)} parts could not be read: {failed[0]}"] if failed else []
        read = zip(self._readings.lines(found.quads, found.parts), found.sure, strict=True)
        lines = [line for line, sure in read if line.text and (sure or (line.confidence or 0.0) >= UNSURE_CONFIDENCE)]
        timings = added(part.outcome.timings_ms for part in found.parts if isinstance(part.outcome, Reading))
        return placed_back(arranged(lines), found.rotation, size), timings, warnings

    def read_at(self, image: Image.Image, quads: Sequence[Quad], margin: float | None = None) -> list[Line]:
        """Read lines at the given corners. The text of a line is empty if nothing was read.

        Raises:
            PageError: a line cannot be read.
        """
        settings = self.settings if margin is None else self.settings.model_copy(update={"margin": margin})
        places = [(n, quad) for n, quad in enumerate(quads) if np.ptp(quad[:, 0]) > 0 and np.ptp(quad[:, 1]) > 0]
        parts = [part for number, quad in places for part in self._parts(image, quad, number, settings)]
        self._read(parts)
        self.read_again(parts)
        for part in parts:
            if isinstance(part.outcome, PageError):
                raise part.outcome
        return self._readings.lines(quads, parts)

    def _read(self, parts: Sequence[Part]) -> None:
        requests = (self.request(part.image) for part in parts)
        for number, outcome in self._model.generate_batch(requests, batch_size=self._batch_size):
            parts[number].outcome = outcome

    @staticmethod
    def _parts(image: Image.Image, quad: Quad, number: int, settings: LineSettings) -> list[Part]:
        return [Part(number, crop.image, crop.blank_before) for crop in crops_of(image, quad, settings)]

    def _rotation(self, image: Image.Image, found: Detection) -> Rotation:
        """Determine the rotation of a page. If unclear, some lines are read in both orientations; the confidence decides."""
        candidates = self._detector.rotations(image, found)
        if len(candidates) == 1:
            return candidates[0]
        sure: dict[Rotation, float] = {}
        for rotation in candidates:
            page, there = turned(image, found, rotation)
            longest = sorted(there.quads, key=lambda quad: -width(quad))[: 3 * ROTATION_LINES : 3]
            values = []
            for quad in longest:
                request = self.request(crops_of(page, quad, self.settings)[0].image)
                try:
                    values += self._model.generate(request.messages, request.max_new_tokens).logprobs
                except PageError:
                    continue
            sure[rotation] = sum(values) / len(values) if values else -math.inf
        return max(candidates, key=lambda rotation: sure[rotation])
