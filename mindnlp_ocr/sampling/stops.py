"""Detection of stop strings in streamed text."""

from collections.abc import Sequence
from typing import NamedTuple


class Sent(NamedTuple):
    """The result of feeding a piece of text."""

    text: str  # can be shown now and is never withdrawn
    stop: str | None  # the stop string that was completed, which ends the text


class StopStrings:
    """Searches streamed text for stop strings.

    Text that could still become a stop string is held back, so no part of a stop string is shown unless it is included. The
    stop string that is completed first ends the text; of those that are completed by the same character, the longest. The
    result does not depend on how the text is cut into pieces.

    Args:
        stops: the strings, none of them empty.
        include: include the stop string in the text.
    """

    def __init__(self, stops: Sequence[str], include: bool = False) -> None:
        self._stops, self._include = tuple(stops), include
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""
        self.stop: str | None = None
        self.length = 0  # number of characters shown, at which the whole text must be cut

    def feed(self, piece: str, may_stop: bool = True) -> Sent:
        """Add a piece, and return the text that can be shown now.

        Args:
            piece: the next piece of text, of any length.
            may_stop: whether the text may end in this piece. If False (before ``min_new_tokens``), everything is shown, and
                no stop string can begin in the piece.

        Raises:
            ValueError: the text has already ended.
        """
        if self.stop is not None:
            raise ValueError("the text has ended with a stop string: no piece can follow")
        if not self._stops or not may_stop:
            return self._show(self._held + piece, "")
        text = self._held + piece
        ends = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            end, begin, self.stop = min(ends)
            return self._show(text[: end if self._include else begin], "")
        keep = self._unfinished(text)
        return self._show(text[: len(text) - keep], text[len(text) - keep :])

    def end(self) -> str:
        """Return the text that was held back, after the last piece."""
        return self._show(self._held, "").text

    def _show(self, text: str, held: str) -> Sent:
        self._held = held
        self.length += len(text)
        return Sent(text, self.stop)

    def _unfinished(self, text: str) -> int:
        """Return the length of the longest suffix of the text that is a prefix of a stop string."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
