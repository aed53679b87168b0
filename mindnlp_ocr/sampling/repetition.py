"""Detection of text that repeats itself endlessly, from its tokens, while it is generated.

A model that loses its place on a page may write the same unit over and over until the limit of tokens. Real pages repeat
themselves too: rows of zeros, dotted leaders, lines of dashes, sheets of labels. A page is finite, though, and the
thresholds below are above what one holds, so that they fire late rather than wrongly:

- A unit's *size* is its number of runs: equal tokens in a row count once. A line of 80 dots and a line break has size 2,
  however many tokens it takes.
- All repetitions together have a size of at least 256 (``LEAST_SIZE``). One token repeated is a run of 256: a leader of full
  stops in 10 points across A4 has about 210. Two tokens in turn, such as spaced dots, are 128 times two.
- There are at least 100 repetitions (``ROWS``), more than a page has lines, or a size of 2,048 in all (``PAGE``), about
  what a densely printed page holds: 80 labels of 24 tokens are below it. A paragraph of 100 tokens has to come 21 times.
- There are at least 8 repetitions (``LEAST_REPEATS``) of a unit of at most 256 tokens (``LONGEST``).

What others do: vLLM's ``RepetitionDetectionParams`` (off by default) compares a count with a minimum, for units of given
lengths. PaddleOCR-VL's ``truncate_repetitive_content`` cuts finished text: a suffix of 5 units or more, 8 characters each,
that is half of a line, or 10 lines of which four fifths are equal; tables are left alone up to 5,000 characters. These
would cut real forms, which is why the thresholds here are higher. MiniMax-M1 ends a text after 3,000 tokens of a
probability above 0.99, which a page that is read without a doubt reaches as well.
"""

from collections.abc import Sequence

LEAST_SIZE = 256
ROWS = 100
PAGE = 2048
LEAST_REPEATS = 8
LONGEST = 256
EVERY = 16


def find_loop(token_ids: Sequence[int]) -> int | None:
    """Find endless repetition at the end of the tokens.

    Returns:
        The index of the first token of the second repetition, so that ``token_ids[:index]`` contains the unit once. None if
        the end of the tokens does not repeat more often than a page may contain.
    """
    tokens = list(token_ids)
    length = len(tokens)
    if length < LEAST_SIZE:
        return None
    last = tokens[-1]
    for unit in range(1, min(LONGEST, length // LEAST_REPEATS) + 1):
        if tokens[-1 - unit] != last or tokens[-unit:] != tokens[-2 * unit : -unit]:
            continue
        if not _repeats(tokens, unit, LEAST_REPEATS):  # cheaper than computing the size of the unit
            continue
        needed = repeats_needed(tokens[-unit:]) * unit
        if needed > length or not _repeats(tokens, unit, needed // unit):
            continue
        start = length - needed
        while start > 0 and tokens[start - 1] == tokens[start - 1 + unit]:
            start -= 1
        return start + unit
    return None


def repeats_needed(unit: Sequence[int]) -> int:
    """Return how many consecutive repetitions of a unit are more than a page may contain."""
    size = max(1, sum(unit[index] != unit[index - 1] for index in range(len(unit))))
    return max(LEAST_REPEATS, _up(LEAST_SIZE, size), min(ROWS, _up(PAGE, size)))


def _repeats(tokens: list[int], unit: int, count: int) -> bool:
    """Return whether the tokens end in ``count`` repetitions of their last ``unit`` tokens; there must be enough tokens."""
    start = len(tokens) - count * unit
    # Comparing the first pair rejects most candidates without copies.
    return tokens[start] == tokens[start + unit] and tokens[start + unit :] == tokens[start:-unit]


def _up(total: int, size: int) -> int:
    return -(-total // size)


class RepetitionGuard:
    """Runs ``find_loop`` once for every 16 tokens.

    Its only state is the length at the last run, so tokens may be withdrawn.
    """

    def __init__(self) -> None:
        self._looked_at = 0

    def check(self, token_ids: Sequence[int]) -> int | None:
        """Return the result of ``find_loop`` if there are at least 16 tokens more than at its last run, else None."""
        if 0 <= len(token_ids) - self._looked_at < EVERY:
            return None
        self._looked_at = len(token_ids)
        return find_loop(token_ids)
