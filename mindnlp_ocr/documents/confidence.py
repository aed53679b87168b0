"""The confidence of lines and pages, and the start of a repetition in a truncated text."""

import math
from collections.abc import Sequence

from mindnlp_ocr.documents.result import Line
from mindnlp_ocr.documents.settings import ConfidenceSettings

SURE = 1e-3  # added to absolute log-probabilities before their logarithm is taken
MIN_REPEATS = 4  # repetitions of a unit from which a truncated text counts as repetitive
MIN_REPEATED_TOKENS = 12


def line_confidence(logprobs: Sequence[float], settings: ConfidenceSettings | None) -> float | None:
    """Estimate the probability that a line is correct from the log-probabilities of its tokens, including the end token."""
    if settings is None or not logprobs:
        return None
    lowest, total = (math.log(SURE - value) for value in (min(logprobs), sum(logprobs)))
    score = settings.bias + settings.lowest * lowest + settings.total * total
    return round(1 / (1 + math.exp(-max(-50.0, min(50.0, score)))), 4)


def page_confidence(lines: Sequence[Line]) -> float | None:
    """Return the mean confidence of lines, weighted by their characters; None if no line has a confidence."""
    known = [(line.confidence, len(line.text)) for line in lines if line.confidence is not None and line.text]
    characters = sum(count for _, count in known)
    return round(sum(value * count for value, count in known) / characters, 4) if characters else None


def repetition_start(token_ids: Sequence[int]) -> int | None:
    """Return the number of tokens up to the end of the first occurrence of the unit that is repeated at the end of a text.

    None if the text does not end in a repetition. Only for texts that the model did not end itself.
    """
    tokens = list(token_ids)
    for unit in range(1, len(tokens) // MIN_REPEATS + 1):
        end = len(tokens)
        start = end - unit
        while start >= unit and tokens[start - unit : start] == tokens[end - unit : end]:
            start -= unit
        # The text may be cut within a unit, so the period may begin earlier than a whole unit.
        while start > 0 and tokens[start - 1] == tokens[start - 1 + unit]:
            start -= 1
        if end - start >= max(MIN_REPEATS * unit, MIN_REPEATED_TOKENS):
            return start + unit
    return None
