"""Logits processors ("rules") and filters of tokens, with the arithmetic of transformers and vLLM in NumPy.

Rules change the logits of one request in place and run in the order of transformers 4.57
(``GenerationMixin._get_logits_processor``); vLLM's two penalties, which transformers does not have, follow its repetition
penalty, as they do in vLLM (``vllm/model_executor/layers/utils.py``, ``apply_penalties``). Filters run after the
temperature, also in the order of transformers: top-k, top-p, min-p. All arithmetic is float32, as in transformers on a CPU,
except sums of probabilities: like PyTorch's ``cumsum`` on a CPU, they are accumulated in float64 and rounded to float32.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
Indices = NDArray[np.int64]
Filter = Callable[[Logits], Indices]

BLOCK = 64  # number of strided tokens in a block, of which ``at_least`` computes the maximum
SORTED = 2048  # maximum number of tokens that ``top_p`` sorts; more are partitioned first
ROOM = 256  # initial capacity of a history, in distinct tokens
LOWEST = np.float32(-np.inf)


class History:
    """The generated tokens of a request, with the statistics that the rules need.

    ``follow`` compares the given tokens with the known ones, so the result never depends on earlier calls. If tokens were
    appended, only these are counted; otherwise, all tokens are counted again.
    """

    def __init__(self, ngram_size: int = 0) -> None:
        self._ngram_size = ngram_size
        self._clear()

    def _clear(self) -> None:
        self.token_ids: list[int] = []
        self._places: dict[int, int] = {}
        self._different = np.zeros(ROOM, np.int64)
        self._counts = np.zeros(ROOM, np.int32)
        self._followers: dict[tuple[int, ...], list[int]] = {}

    def follow(self, token_ids: Sequence[int]) -> None:
        """Set the history to these generated tokens."""
        given = list(token_ids)
        if given[: len(self.token_ids)] != self.token_ids:
            self._clear()
        for token in given[len(self.token_ids) :]:
            self.token_ids.append(token)
            place = self._places.setdefault(token, len(self._places))
            if place == self._counts.size:
                self._different = np.append(self._different, np.zeros_like(self._different))
                self._counts = np.append(self._counts, np.zeros_like(self._counts))
            self._different[place] = token
            self._counts[place] += 1
            if self._ngram_size and len(self.token_ids) >= self._ngram_size:
                *first, last = self.token_ids[-self._ngram_size :]
                self._followers.setdefault(tuple(first), []).append(last)

    @property
    def different(self) -> Indices:
        """The distinct generated tokens."""
        return self._different[: len(self._places)]

    @property
    def counts(self) -> NDArray[np.int32]:
        """How often each of ``different`` was generated."""
        return self._counts[: len(self._places)]

    def banned_by_ngrams(self) -> list[int]:
        """Tokens that would complete an n-gram of the history."""
        if len(self.token_ids) < self._ngram_size - 1:
            return []
        newest = self.token_ids[len(self.token_ids) - self._ngram_size + 1 :]
        return self._followers.get(tuple(newest), [])


class Rule(Protocol):
    """A logits processor, which changes logits in place.

    Args:
        logits: float32 [vocab].
        history: the generated tokens.
    """

    def __call__(self, logits: Logits, history: History) -> None: ...


class RepetitionPenalty:
    """Keskar et al. 2019 (CTRL), arXiv:1909.05858, in the form of transformers' ``RepetitionPenaltyLogitsProcessor``:
    positive logits of generated tokens are divided by the penalty, negative ones multiplied."""

    def __init__(self, penalty: float) -> None:
        self._penalty = np.float32(penalty)

    def __call__(self, logits: Logits, history: History) -> None:
        ids = history.different
        values = logits[ids]
        logits[ids] = np.where(values < 0, values * self._penalty, values / self._penalty)


class CountPenalties:
    """Presence and frequency penalties of OpenAI and vLLM: ``logits -= frequency * count``, then ``logits -= presence *
    (count > 0)``."""

    def __init__(self, presence: float, frequency: float) -> None:
        self._presence, self._frequency = np.float32(presence), np.float32(frequency)

    def __call__(self, logits: Logits, history: History) -> None:
        ids = history.different
        logits[ids] = logits[ids] - self._frequency * history.counts.astype(np.float32) - self._presence


class Ban:
    """A rule that bans tokens."""

    def banned(self, history: History) -> Sequence[int]:
        """Return the banned tokens."""
        raise NotImplementedError

    def __call__(self, logits: Logits, history: History) -> None:
        logits[list(self.banned(history))] = LOWEST


class NoRepeatNGram(Ban):
    """transformers' ``NoRepeatNGramLogitsProcessor``; the history determines the size."""

    def banned(self, history: History) -> Sequence[int]:
        return history.banned_by_ngrams()


class BadWords(Ban):
    """transformers' ``NoBadWordsLogitsProcessor``: the last token of a word is banned if its other tokens precede. A word
    that is a single end-of-text token is not banned. As in vLLM, a word is also found at the beginning of the text.

    Args:
        words: token ids of each word, at least one.
        eos_token_ids: see above.
    """

    def __init__(self, words: Iterable[Sequence[int]], eos_token_ids: Sequence[int] = ()) -> None:
        sequences = [list(word) for word in words]
        self._single = [word[0] for word in sequences if len(word) == 1 and word[0] not in eos_token_ids]
        self._longer = [word for word in sequences if len(word) > 1]

    def banned(self, history: History) -> Sequence[int]:
        ends = [word[-1] for word in self._longer if history.token_ids[1 - len(word) :] == word[:-1]]
        return [*self._single, *ends]


class MinNewTokens(Ban):
    """transformers' ``MinNewTokensLengthLogitsProcessor``: bans the end tokens until the minimum length is reached."""

    def __init__(self, count: int, end_token_ids: Iterable[int]) -> None:
        self._count, self._ends = count, list(end_token_ids)

    def banned(self, history: History) -> Sequence[int]:
        return self._ends if len(history.token_ids) < self._count else []


def at_least(values: Logits, k: int) -> Indices:
    """Return the ascending indices of all values that are not below the k-th highest, or all if there are at most k.

    The k-th highest of the block maxima is a lower bound of the k-th highest value, so values below it need not be
    partitioned. The result is exact, and faster than partitioning all values.
    """
    if k >= values.size:
        return np.arange(values.size)
    whole = values.size // BLOCK * BLOCK
    if k > whole // BLOCK // 4:
        return np.flatnonzero(values >= np.partition(values, values.size - k)[values.size - k])
    highest = values[:whole].reshape(BLOCK, -1).max(axis=0)
    bound = np.partition(highest, highest.size - k)[highest.size - k]
    near = np.flatnonzero(values >= bound)
    kept = values[near]
    found: Indices = near[kept >= np.partition(kept, kept.size - k)[kept.size - k]]
    return found


def softmax(logits: Logits) -> Logits:
    """Return probabilities, float32 [tokens]. At least one logit must be finite."""
    powers: Logits = np.exp(logits - logits.max())
    powers /= powers.sum()
    return powers


def top_k(k: int) -> Filter:
    """transformers' ``TopKLogitsWarper``: tokens that tie with the k-th are kept."""
    return lambda logits: at_least(logits, k)


def top_p(p: float) -> Filter:
    """transformers' ``TopPLogitsWarper`` (Holtzman et al. 2019, arXiv:1904.09751): tokens are removed in ascending order
    while the sum of their probabilities does not exceed 1 - p; the most probable token always stays. Among equal tokens, the
    first in the vocabulary stay, as ``argmax`` takes the first; PyTorch's sort does not define their order.

    Tokens with probabilities below (1 - p) / vocab cannot add up to more than 1 - p, so they are removed without sorting. If
    many tokens are left, they are partitioned at a value: either the lower part is removed as a whole, or it contains the
    border.
    """
    rest = np.float32(1 - p)

    def keep(logits: Logits) -> Indices:
        probabilities = softmax(logits)
        near = np.flatnonzero(probabilities > rest / np.float32(logits.size) * np.float32(0.99))[::-1]
        below = max(0.0, float(probabilities.sum(dtype=np.float64) - probabilities[near].sum(dtype=np.float64)))
        above = list[Indices]()
        while near.size > SORTED:
            values = logits[near]
            low = values <= np.median(values[:: values.size // 128])
            if low.all():
                break
            mass = below + float(probabilities[near[low]].sum(dtype=np.float64))
            if np.float32(mass) <= rest:
                below, near = mass, near[~low]
            else:
                above.append(near[~low])
                near = near[low]
        order = near[np.argsort(logits[near], kind="stable")]
        sums = (below + np.cumsum(probabilities[order], dtype=np.float64)).astype(np.float32)
        kept = sums > rest
        if not above:
            kept[-1] = True
        return np.sort(np.concatenate([order[kept], *above]))

    return keep


def min_p(share: float) -> Filter:
    """transformers' ``MinPLogitsWarper`` (Nguyen et al. 2024, arXiv:2407.01082): tokens of less than this share of the
    highest probability are removed."""
    share32 = np.float32(share)

    def keep(logits: Logits) -> Indices:
        probabilities = softmax(logits)
        return np.flatnonzero(probabilities >= share32 * probabilities.max())

    return keep
