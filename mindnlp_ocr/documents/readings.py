"""Conversion of the model's answers to lines with boxes and confidence, truncated at the start of a repetition."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from mindnlp_ocr.documents.confidence import line_confidence, repetition_start
from mindnlp_ocr.documents.detector import Quad
from mindnlp_ocr.documents.placing import placed
from mindnlp_ocr.documents.result import Block, Box, CutReason, Line
from mindnlp_ocr.documents.settings import DocumentSettings
from mindnlp_ocr.engine.generate import Reading
from mindnlp_ocr.errors import PageError
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel


@dataclass
class Part:
    """One line, or one part of a long line, and the outcome of its request."""

    line: int
    image: Image.Image
    blank_before: bool
    outcome: Reading | PageError | None = None


class Readings:
    """Converts answers to lines.

    Args:
        threshold: lines with a lower confidence are doubtful.
    """

    def __init__(self, model: Qwen2VLModel, settings: DocumentSettings, threshold: float) -> None:
        self._model, self._settings, self.threshold = model, settings, threshold

    def estimate(self, logprobs: Sequence[float]) -> tuple[float | None, bool]:
        """Return the confidence of a text, and whether it is doubtful."""
        confidence = line_confidence(logprobs, self._settings.confidence)
        return confidence, confidence is not None and confidence < self.threshold

    def lines(self, quads: Sequence[Quad], parts: Sequence[Part]) -> list[Line]:
        """Return one line for each quadrilateral; its text is empty if nothing was read."""
        return [self._line(quad, [part for part in parts if part.line == number]) for number, quad in enumerate(quads)]

    def _line(self, quad: Quad, parts: Iterable[Part]) -> Line:
        """Join the answers of the parts of one line."""
        text, cut, logprobs = "", None, list[float]()
        for part in parts:
            if isinstance(part.outcome, Reading):
                piece, why = self.text(part.outcome)
                text += (" " if part.blank_before and text and piece else "") + piece.strip()
                cut = cut or why
                logprobs += part.outcome.logprobs
        text = " ".join(text.split())
        confidence, doubtful = self.estimate(logprobs) if text else (None, False)
        box, polygon = placed(quad)
        return Line(text=text, box=box, polygon=polygon, confidence=confidence, doubtful=doubtful, cut=cut)

    def text(self, reading: Reading) -> tuple[str, CutReason | None]:
        """Return the text without repetitions, and the reason if it ends early."""
        if reading.finish_reason == "stop":
            return reading.text, None
        if reading.finish_reason == "repetition":  # the engine has already truncated it
            return reading.text, "repetition"
        keep = repetition_start(reading.token_ids)
        if keep is None:
            return reading.text, "length"
        return self._model.decode(reading.token_ids[:keep]), "repetition"

    def whole(self, reading: Reading, size: tuple[int, int]) -> tuple[Block, ...]:
        """Convert a page that was read in one request to one block; the positions of its lines are unknown."""
        text, cut = self.text(reading)
        if not text.strip():
            return ()
        texts = text.split("\n")
        logprobs: list[list[float]] = [[] for _ in texts]
        number = 0
        for piece, value in zip(self._model.pieces(reading.token_ids), reading.logprobs, strict=True):
            logprobs[min(number, len(texts) - 1)].append(value)
            number += piece.count("\n")
        box = Box(0, 0, *size)
        lines = []
        for row, (line, values) in enumerate(zip(texts, logprobs, strict=True)):
            confidence, doubtful = self.estimate(values) if line else (None, False)
            last = cut if row == len(texts) - 1 else None
            lines.append(Line(text=line, box=box, confidence=confidence, doubtful=doubtful, row=row, cut=last))
        return (Block(box=box, lines=tuple(lines)),)


def messages(image: Image.Image, prompt: str, text_first: bool = False) -> list[dict[str, Any]]:
    """Return chat messages with an image followed by a prompt, or preceded by it with ``text_first``."""
    content: list[dict[str, Any]] = [{"type": "image", "image": image}, {"type": "text", "text": prompt}]
    return [{"role": "user", "content": content[::-1] if text_first else content}]
