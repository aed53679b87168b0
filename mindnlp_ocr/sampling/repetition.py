"""A text that repeats itself without end, told by its tokens while it is generated.

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
    """Where runaway repetition began that lasts to the end of the tokens.

    Returns:
        The index of the first token of the second repetition, so that ``token_ids[:index]`` keeps one; None where the end of
        the tokens does not repeat itself beyond what a page may hold.
    """
    tokens = list(token_ids)
    length = len(tokens)
    if length < LEAST_SIZE:
        return None
    last = tokens[-1]
    for unit in range(1, min(LONGEST, length // LEAST_REPEATS) + 1):
        if tokens[-1 - unit] != last or tokens[-unit:] != tokens[-2 * unit : -unit]:
            continue
        if not _repeats(tokens, unit, LEAST_REPEATS):  # before the size of the unit is counted
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
    """How often a unit has to stand in a row to be no part of a page."""
    size = max(1, sum(unit[index] != unit[index - 1] for index in range(len(unit))))
    return max(LEAST_REPEATS, _up(LEAST_SIZE, size), min(ROWS, _up(PAGE, size)))


def _repeats(tokens: list[int], unit: int, count: int) -> bool:
    """Whether the tokens end in so many repetitions of their last ``unit`` tokens; there are as many."""
    start = len(tokens) - count * unit
    # The first pair alone refuses most, without copies.
    return tokens[start] == tokens[start + unit] and tokens[start + unit :] == tokens[start:-unit]


def _up(total: int, size: int) -> int:
    return -(-total // size)


class RepetitionGuard:
    """``find_loop``, asked for after every token and run once in 16.

    It remembers only at which length it looked last: tokens may be taken back.
    """

    def __init__(self) -> None:
        self._looked_at = 0

    def check(self, token_ids: Sequence[int]) -> int | None:
        """What ``find_loop`` finds, where 16 tokens or more have come since it was last run; None between."""
        if 0 <= len(token_ids) - self._looked_at < EVERY:
            return None
        self._looked_at = len(token_ids)
        return find_loop(token_ids)
