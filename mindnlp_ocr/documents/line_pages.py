"""Pages that are read line by line: lines are found, cut out, asked for, and put together again."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from mindnlp_ocr.documents.ahead import added, since
from mindnlp_ocr.documents.crops import crops_of, split_cells
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

ROTATION_LINES = 5  # that are read both ways where it is not clear which way is up


@dataclass
class FoundLines:
    """The lines of a page, and what came of them.

    Attributes:
        rotation: degrees by which the page was turned clockwise.
        quads: where lines lie on the turned page.
        parts: of the lines, each a request.
    """

    rotation: Rotation = 0
    quads: list[Quad] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    timings_ms: dict[str, float] = field(default_factory=dict)


class LinePages:
    """Finds the lines of pages, asks for them, and reads the answers.

    Args:
        settings: how lines are cut and asked for.
        prompt: in place of that of the settings.
        max_new_tokens: the same.
        batch_size: requests at a time.
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
        """The lines of an RGB page, upright and in parts of at most the longest width."""
        lines = FoundLines()
        start = time.perf_counter()
        found = self._detector.detect(image)
        lines.rotation = self._rotation(image, found)
        image, found = turned(image, found, lines.rotation)
        lines.timings_ms["detect"] = since(start)
        start = time.perf_counter()
        for quad in found.quads:
            for cell in split_cells(image, quad):
                lines.parts += self._parts(image, cell, len(lines.quads), self.settings)
                lines.quads.append(cell)
        lines.timings_ms["crop"] = since(start)
        return lines

    def request(self, image: Image.Image) -> Request:
        """The request for one part of a line."""
        return Request(messages(image, self._prompt), self._max_new_tokens)

    def blocks(self, found: FoundLines, size: tuple[int, int]) -> tuple[tuple[Block, ...], dict[str, float], list[str]]:
        """The blocks of a page of this size whose lines were read, what they took, and what a user should know."""
        failed = [part.outcome for part in found.parts if isinstance(part.outcome, PageError)]
        warnings = [f"{len(failed)} of {len(found.parts)} parts could not be read: {failed[0]}"] if failed else []
        lines = [line for line in self._readings.lines(found.quads, found.parts) if line.text]
        timings = added(part.outcome.timings_ms for part in found.parts if isinstance(part.outcome, Reading))
        return placed_back(arranged(lines), found.rotation, size), timings, warnings

    def read_at(self, image: Image.Image, quads: Sequence[Quad], margin: float | None = None) -> list[Line]:
        """One line for each place, empty where nothing was read.

        Raises:
            PageError: a line cannot be read.
        """
        settings = self.settings if margin is None else self.settings.model_copy(update={"margin": margin})
        places = [(n, quad) for n, quad in enumerate(quads) if np.ptp(quad[:, 0]) > 0 and np.ptp(quad[:, 1]) > 0]
        parts = [part for number, quad in places for part in self._parts(image, quad, number, settings)]
        requests = (self.request(part.image) for part in parts)
        for number, outcome in self._model.generate_batch(requests, batch_size=self._batch_size):
            if isinstance(outcome, PageError):
                raise outcome
            parts[number].outcome = outcome
        return self._readings.lines(quads, parts)

    @staticmethod
    def _parts(image: Image.Image, quad: Quad, number: int, settings: LineSettings) -> list[Part]:
        return [Part(number, crop.image, crop.blank_before) for crop in crops_of(image, quad, settings)]

    def _rotation(self, image: Image.Image, found: Detection) -> Rotation:
        """How the page has to be turned. Where that is not clear, some lines are read both ways: the surer one wins."""
        candidates = self._detector.rotations(image, found)
        if len(candidates) == 1:
            return candidates[0]
        sure: dict[Rotation, float] = {}
        for rotation in candidates:
            page, lines = turned(image, found, rotation)
            longest = sorted(lines.quads, key=lambda quad: -width(quad))[: 3 * ROTATION_LINES : 3]
            values = []
            for quad in longest:
                request = self.request(crops_of(page, quad, self.settings)[0].image)
                try:
                    values += self._model.generate(request.messages, request.max_new_tokens).logprobs
                except PageError:
                    continue
            sure[rotation] = sum(values) / len(values) if values else -math.inf
        return max(candidates, key=lambda rotation: sure[rotation])
