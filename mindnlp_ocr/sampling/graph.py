"""Sampling for a batch in a graph of MindSpore's operators, so that logits need not leave an NPU.

It implements the rules and filters of ``rules.py`` with separate settings for each row. N-grams, bad words, the minimum
length and grammars are passed as a mask that the host computes. Every operator is documented for both Ascend and CPU; only
the CPU was tested.
"""

import mindspore as ms
from mindspore import Tensor, nn, ops

BANNED = -1e30  # finite, so that differences are not NaN, even after division by a temperature of 1e-5
BELOW_ONE = 1 - 2**-24


class SampleTokens(nn.Cell):
    """Samples one token for each row of logits.

    It differs from ``Sampler`` in two ways. All tokens that tie at the border of top-p are kept. Probabilities are summed in
    float32, so a random number very close to the border between two tokens may select the other token.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sort = ops.Sort(axis=-1, descending=True)

    def construct(
        self,
        logits: Tensor,
        temperature: Tensor,
        top_k: Tensor,
        top_p: Tensor,
        min_p: Tensor,
        presence: Tensor,
        frequency: Tensor,
        repetition: Tensor,
        counts: Tensor,
        banned: Tensor,
        uniform: Tensor,
    ) -> Tensor:
        """Return the sampled tokens.

        Args:
            logits: float32 [rows, vocab], finite.
            temperature: float32 [rows]; 0 is greedy.
            top_k: int32 [rows]; 0 or less keeps all.
            top_p: float32 [rows], above 0 to 1.
            min_p: float32 [rows], 0 to 1.
            presence: presence penalties, float32 [rows].
            frequency: frequency penalties, float32 [rows].
            repetition: repetition penalties, float32 [rows]; 1 is off.
            counts: how often each token was generated, int32 [rows, vocab].
            banned: banned tokens, bool [rows, vocab]; at least one token of every row must be allowed.
            uniform: random numbers in [0, 1) of ``Sampler.random``, float32 [rows].

        Returns:
            Token ids, int32 [rows].
        """
        rows, vocab = logits.shape

        def column(setting: Tensor) -> Tensor:
            return setting.reshape(rows, 1)

        seen = counts > 0
        repeated = ops.select(logits < 0, logits * column(repetition), logits / column(repetition))
        values = ops.select(seen, repeated, logits)
        values = values - column(frequency) * counts.astype(ms.float32) - column(presence) * seen.astype(ms.float32)
        nothing = ops.full_like(values, BANNED)
        values = ops.select(banned, nothing, values)
        best = ops.argmax(values, -1).astype(ms.int32)
        greedy = temperature == 0
        values = values / column(ops.select(greedy, ops.ones_like(temperature), temperature))

        ordered, _ = self._sort(values)
        wanted = ops.select(top_k < 1, ops.full_like(top_k, vocab), ops.minimum(top_k, vocab))
        lowest = ops.gather_elements(ordered, 1, column(wanted - 1))
        left = ops.select(ordered >= lowest, ordered, nothing)
        likely = ops.softmax(left, -1)
        before = ops.cumsum(likely, -1) - likely  # probability of all more probable tokens
        # top_p = 1 must keep all tokens, but rounded sums may reach 1 before the last token.
        within = ops.logical_or(before < column(top_p), column(top_p >= 1))
        within = ops.logical_and(within, likely >= column(min_p) * likely[:, :1])
        within = ops.logical_and(within, ordered >= lowest)
        count = ops.maximum(within.astype(ms.int32).sum(-1), 1)
        border = ops.gather_elements(ordered, 1, column(count - 1))

        kept = ops.softmax(ops.select(values >= border, values, nothing), -1)
        sums = ops.cumsum(kept, -1)
        mark = column(ops.minimum(uniform, BELOW_ONE)) * sums[:, vocab - 1 :]
        drawn = (sums <= mark).astype(ms.int32).sum(-1).astype(ms.int32)
        return ops.select(greedy, best, drawn)


class SampleFromHistory(nn.Cell):
    """``SampleTokens`` with token lists as inputs in place of counts and masks, which also returns log-probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self._sample = SampleTokens()

    def construct(
        self,
        logits: Tensor,
        temperature: Tensor,
        top_k: Tensor,
        top_p: Tensor,
        min_p: Tensor,
        presence: Tensor,
        frequency: Tensor,
        repetition: Tensor,
        history: Tensor,
        bans: Tensor,
        uniform: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return the sampled tokens and their log-probabilities in the raw logits.

        Args:
            logits: float32 [rows, vocab], finite. The settings are those of ``SampleTokens``.
            history: the generated tokens of each row, int32 [rows, HISTORY], padded with -1.
            bans: the banned tokens of each row, int32 [rows, BANS], padded with -1.
            uniform: float32 [rows].

        Returns:
            int32 [rows], float32 [rows].
        """
        counts = _counts(history, logits)
        banned = _counts(bans, logits) > 0
        tokens = self._sample(
            logits, temperature, top_k, top_p, min_p, presence, frequency, repetition, counts, banned, uniform
        )
        rows = logits.shape[0]
        probabilities = ops.log_softmax(logits, -1)
        return tokens, ops.gather_elements(probabilities, 1, tokens.reshape(rows, 1)).reshape(rows)


def _counts(ids: Tensor, logits: Tensor) -> Tensor:
    """Count each token in its row, int32 [rows, vocab]; -1 is padding."""
    rows, vocab = logits.shape
    count = ids.shape[1]
    column = ops.select(ids < 0, ops.full_like(ids, vocab), ids).reshape(rows * count, 1)
    row = ops.broadcast_to(ops.cumsum(ops.ones((rows, 1), ms.int32), 0) - 1, (rows, count)).reshape(rows * count, 1)
    places = ops.concat((row, column), 1)
    zeros = ops.zeros((rows, vocab + 1), ms.int32)
    return ops.tensor_scatter_add(zeros, places, ops.ones((rows * count,), ms.int32))[:, :vocab]
