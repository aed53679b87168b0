"""How far a line can be trusted, and where a text that repeats itself ends."""

import math
from collections.abc import Sequence

from mindnlp_ocr.documents.result import Line
from mindnlp_ocr.documents.settings import ConfidenceSettings

SURE = 1e-3  # log-probabilities closer to 0 than this count alike
MIN_REPEATS = 4  # of a unit, before a text that never ended counts as a repetition
MIN_REPEATED_TOKENS = 12


def line_confidence(logprobs: Sequence[float], settings: ConfidenceSettings | None) -> float | None:
    """The estimated probability that a line is right, from the log-probabilities of its tokens, its end among them."""
    if settings is None or not logprobs:
        return None
    lowest, total = (math.log(SURE - value) for value in (min(logprobs), sum(logprobs)))
    score = settings.bias + settings.lowest * lowest + settings.total * total
    return round(1 / (1 + math.exp(-max(-50.0, min(50.0, score)))), 4)


def page_confidence(lines: Sequence[Line]) -> float | None:
    """The mean confidence of lines, weighted by their characters; None where no line has one."""
    known = [(line.confidence, len(line.text)) for line in lines if line.confidence is not None and line.text]
    characters = sum(count for _, count in known)
    return round(sum(value * count for value, count in known) / characters, 4) if characters else None


def repetition_start(token_ids: Sequence[int]) -> int | None:
    """How many tokens of a text to keep that ends in a unit repeated over and over: up to the end of its first occurrence.
    None where the text does not end so. Only for texts that the model did not end itself."""
    tokens = list(token_ids)
    for unit in range(1, len(tokens) // MIN_REPEATS + 1):
        end = len(tokens)
        start = end - unit
        while start >= unit and tokens[start - unit : start] == tokens[end - unit : end]:
            start -= unit
        # The text may be cut inside a unit: the part before it may continue the period.
        while start > 0 and tokens[start - 1] == tokens[start - 1 + unit]:
            start -= 1
        if end - start >= max(MIN_REPEATS * unit, MIN_REPEATED_TOKENS):
            return start + unit
    return None
