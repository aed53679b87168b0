"""The sampler of one request, which chooses the next token from the logits."""

import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mindnlp_ocr.errors import PageError
from mindnlp_ocr.sampling.grammar import Grammar
from mindnlp_ocr.sampling.params import SamplingParams
from mindnlp_ocr.sampling.rules import (
    LOWEST,
    BadWords,
    Ban,
    CountPenalties,
    Filter,
    History,
    Logits,
    MinNewTokens,
    NoRepeatNGram,
    RepetitionPenalty,
    Rule,
    at_least,
    min_p,
    softmax,
    top_k,
    top_p,
)


class Choice(NamedTuple):
    """A token and its log-probability.

    Log-probabilities are natural logarithms computed from the raw logits, before any rule, temperature or filter. vLLM
    reports the same by default (``logprobs_mode="raw_logprobs"``), and so does the greedy path of the engine.
    """

    token_id: int
    logprob: float
    top_logprobs: list[tuple[int, float]]  # (token id, log-probability), most probable first, ties by id


HISTORY = 1024  # maximum number of generated tokens in a row of the graph
BANS = 64  # maximum number of banned tokens in a row of the graph


class Row(NamedTuple):
    """The sampling inputs of one row of the graph."""

    params: SamplingParams
    history: list[int]
    bans: list[int]
    uniform: float


def row_inputs(rows: dict[int, Row], count: int) -> list[NDArray[Any]]:
    """Return the inputs of ``graph.SampleFromHistory`` after the logits [count, vocab]. Missing rows are greedy."""
    plain = SamplingParams()
    numbers = {
        name: np.full(count, getattr(plain, name), np.float32)
        for name in (
            "temperature",
            "top_p",
            "min_p",
            "presence_penalty",
            "frequency_penalty",
            "repetition_penalty",
        )
    }
    top_k, uniform = np.zeros(count, np.int32), np.zeros(count, np.float32)
    history, bans = np.full((count, HISTORY), -1, np.int32), np.full((count, BANS), -1, np.int32)
    for at, row in rows.items():
        for name, values in numbers.items():
            values[at] = getattr(row.params, name)
        top_k[at], uniform[at] = row.params.top_k, row.uniform
        history[at, : len(row.history)], bans[at, : len(row.bans)] = row.history, row.bans
    temperature, *others = numbers.values()
    return [temperature, top_k, *others, history, bans, uniform]


class Sampler:
    """Chooses the tokens of one request.

    The choice depends only on the settings, the logits and the generated tokens: tokens may be withdrawn and chosen again,
    and batching does not change the result. The random number of the n-th token is the n-th block of a counter-based
    generator (Philox, Salmon et al. 2011) with the seed. Penalties, n-grams and bad words consider generated tokens only,
    not the prompt.

    Args:
        params: the sampling parameters of the request.
        vocab_size: number of logits.
        eos_token_ids: end-of-text tokens.
        tokenizer: required for ``bad_words``.
        grammar: required for ``json_schema`` and ``regex`` (``GrammarCompiler.grammar``); not shared with other requests.

    Raises:
        PageError: the model does not have one of the stop tokens.
        ValueError: the tokenizer or the grammar is missing.
    """

    def __init__(
        self,
        params: SamplingParams,
        vocab_size: int,
        eos_token_ids: Sequence[int],
        *,
        tokenizer: Tokenizer | None = None,
        grammar: Grammar | None = None,
    ) -> None:
        params.check_vocabulary(vocab_size)
        if params.constrained != (grammar is not None):
            raise ValueError("a request needs a grammar if, and only if, it has a json_schema or a regex")
        self.params = params
        self.seed = secrets.randbits(64) if params.seed is None else params.seed
        self._vocab_size = vocab_size
        self._grammar = grammar
        self._history = History(params.no_repeat_ngram_size)
        self._rules = _rules(params, eos_token_ids, tokenizer)
        self._filters = [] if params.greedy else _filters(params, vocab_size)

    def choose(self, logits: Logits, token_ids: Sequence[int]) -> Choice:
        """Choose the next token.

        Args:
            logits: float32 [vocab], finite, the output of the network. They are not modified.
            token_ids: all tokens that this request has generated so far, without the prompt.

        Raises:
            PageError: the rules ban all tokens, or ``token_ids`` do not follow the grammar.
            ValueError: the logits have a wrong shape or dtype.
        """
        if logits.shape != (self._vocab_size,) or logits.dtype != np.float32:
            raise ValueError(f"logits are {logits.dtype} {list(logits.shape)}, but float32 [{self._vocab_size}] is needed")
        changed = self._after_rules(logits, token_ids)
        token = int(changed.argmax())
        if changed[token] == LOWEST:
            raise PageError(
                f"no token is allowed at position {len(token_ids)}: the grammar, bad_words, no_repeat_ngram_size and "
                "min_new_tokens of this request contradict each other, remove one of them",
                code="no_token_allowed",
            )
        if not self.params.greedy:
            token = self._draw(changed, len(token_ids))
        return self._choice(logits, token)

    def row(self, token_ids: Sequence[int]) -> "Row | None":
        """Return the inputs with which the graph (``graph.SampleFromHistory``) chooses the next token; None if only
        ``choose``
        can: with a grammar, with ``top_logprobs``, for long texts and for many bans."""
        if self._grammar is not None or self.params.top_logprobs or len(token_ids) > HISTORY:
            return None
        self._history.follow(token_ids)
        bans = {token for rule in self._rules if isinstance(rule, Ban) for token in rule.banned(self._history)}
        if len(bans) > BANS:
            return None
        return Row(self.params, list(token_ids), sorted(bans), self.random(len(token_ids)))

    def _after_rules(self, logits: Logits, token_ids: Sequence[int]) -> Logits:
        if not self._rules and self._grammar is None:
            return logits
        changed = logits.copy()
        if self._grammar is not None:
            changed[~self._grammar.allowed(token_ids)] = LOWEST
        if self._rules:
            self._history.follow(token_ids)
            for rule in self._rules:
                rule(changed, self._history)
        return changed

    def _draw(self, logits: Logits, position: int) -> int:
        """Draw a token from the distribution after temperature and filters, by inverting its cumulative sums."""
        values = logits if self.params.temperature == 1 else logits / np.float32(self.params.temperature)
        kept = None
        for keep in self._filters:
            chosen = keep(values)
            values = values[chosen]
            kept = chosen if kept is None else kept[chosen]
        sums = np.cumsum(softmax(values).astype(np.float64))
        # The total is above 0 and the number below 1, so the first sum above their product belongs to an allowed token.
        number = int(np.searchsorted(sums, self.random(position) * sums[-1], side="right"))
        return number if kept is None else int(kept[number])

    def random(self, position: int) -> float:
        """Return the uniform random number of a position, in [0, 1), with 53 bits."""
        return int(np.random.Philox(key=self.seed, counter=position).random_raw() >> 11) * 2.0**-53

    def _choice(self, logits: Logits, token: int) -> Choice:
        highest = logits.max()
        norm = np.log(np.exp(logits - highest).sum())
        count = self.params.top_logprobs
        top = list[tuple[int, float]]()
        if count:
            near = at_least(logits, count)
            best = near[np.argsort(-logits[near], kind="stable")[:count]]
            top = [(int(index), float(logits[index] - highest - norm)) for index in best]
        return Choice(token, float(logits[token] - highest - norm), top)


def _rules(params: SamplingParams, eos_token_ids: Sequence[int], tokenizer: Tokenizer | None) -> list[Rule]:
    """Return the active rules in their order."""
    rules = list[Rule]()
    if params.repetition_penalty != 1:
        rules.append(RepetitionPenalty(params.repetition_penalty))
    if params.presence_penalty or params.frequency_penalty:
        rules.append(CountPenalties(params.presence_penalty, params.frequency_penalty))
    if params.no_repeat_ngram_size:
        rules.append(NoRepeatNGram())
    if params.bad_words:
        if tokenizer is None:
            raise ValueError("bad_words need a tokenizer")
        words = [ids for word in params.bad_words for ids in bad_word_ids(word, tokenizer)]
        rules.append(BadWords(words, eos_token_ids))
    if params.min_new_tokens:
        rules.append(MinNewTokens(params.min_new_tokens, [*eos_token_ids, *params.stop_token_ids]))
    return rules


def _filters(params: SamplingParams, vocab_size: int) -> list[Filter]:
    filters = list[Filter]()
    if 0 < params.top_k < vocab_size:
        filters.append(top_k(params.top_k))
    if params.top_p < 1:
        filters.append(top_p(params.top_p))
    if params.min_p:
        filters.append(min_p(params.min_p))
    return filters


def bad_word_ids(word: str, tokenizer: Tokenizer) -> list[list[int]]:
    """Return the tokens of a word at the beginning of a text, and its tokens after a space if these begin differently.

    This follows vLLM (``SamplingParams.update_from_tokenizer``). A word is not found if a token extends across its ends.
    """
    plain: list[int] = tokenizer.encode(word, add_special_tokens=False).ids
    spaced: list[int] = tokenizer.encode(" " + word.lstrip(), add_special_tokens=False).ids
    found = [plain] if plain else []
    if plain and spaced and spaced[0] != plain[0] and len(spaced) == len(plain):
        found.append(spaced)
    return found
