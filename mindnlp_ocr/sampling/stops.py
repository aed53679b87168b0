"""Stop strings in a text that grows."""

from collections.abc import Sequence
from typing import NamedTuple


class Sent(NamedTuple):
    """What a piece of text gives."""

    text: str  # may be shown now, and is never taken back
    stop: str | None  # the stop string that is complete; the text ends


class StopStrings:
    """Text on its way to the reader, in which strings are searched that end it.

    Whatever could still become a stop string is held back: no part of one is ever shown, unless it is to be included. Of
    several, the one that is complete first ends the text; of those that are complete with the same character, the longest.
    So the result does not depend on how the text was cut into pieces.

    Args:
        stops: the strings, none of them empty.
        include: show the stop string itself.
    """

    def __init__(self, stops: Sequence[str], include: bool = False) -> None:
        self._stops, self._include = tuple(stops), include
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""
        self.stop: str | None = None
        self.length = 0  # characters that were shown: where the whole text is to be cut

    def feed(self, piece: str, may_stop: bool = True) -> Sent:
        """The text that may be shown now that a piece has come.

        Args:
            piece: of any length.
            may_stop: whether the text may end in this piece. Without it (before ``min_new_tokens``) everything is shown, and
                no stop string begins in it.

        Raises:
            ValueError: the text has ended.
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
        """What was held back, when no piece follows."""
        return self._show(self._held, "").text

    def _show(self, text: str, held: str) -> Sent:
        self._held = held
        self.length += len(text)
        return Sent(text, self.stop)

    def _unfinished(self, text: str) -> int:
        """The length of the longest end of the text that a stop string begins with."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
