"""Sampling parameters of one request."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mindnlp_ocr.errors import PageError

SMALLEST_TEMPERATURE = 1e-5  # vLLM's limit too (_SAMPLING_EPS): float32 logits divided by less may overflow
MOST_TOP_LOGPROBS = 20  # OpenAI's limit
MOST_PENALTY = 2.0  # OpenAI's limit for presence_penalty and frequency_penalty
MOST_SEED = 2**64 - 1


@dataclass(frozen=True)
class SamplingParams:
    """Sampling parameters of one request, with the names of OpenAI's API and vLLM.

    Penalties and bans of n-grams count generated tokens only. (vLLM's repetition penalty counts the prompt as well. Here,
    the prompt consists mostly of image tokens, and the words of its instruction may also occur on the page.)

    Attributes:
        temperature: divisor of the logits. 0 selects the most probable token (greedy decoding); ``top_k``, ``top_p``,
            ``min_p`` and ``seed`` then have no effect.
        top_p: keep the most probable tokens up to this cumulative probability, above 0 to 1. 1 keeps all tokens.
        top_k: keep this number of most probable tokens, and tokens that tie with the last of them. 0 or -1 keeps all tokens.
        min_p: keep tokens with at least this fraction of the highest probability, 0 to 1. 0 keeps all tokens.
        seed: seed of the random numbers, 0 to 2**64 - 1. The same seed gives the same text, alone or in a batch. None: the
            operating system provides a seed.
        presence_penalty: subtracted from the logit of every token that was generated before, -2 to 2.
        frequency_penalty: subtracted once for each time that the token was generated, -2 to 2.
        repetition_penalty: divides the positive logits of generated tokens, and multiplies the negative ones. 1 is off.
        no_repeat_ngram_size: no sequence of this number of tokens is generated twice. 0 is off.
        stop: stop strings; the text ends before the first of them. A single string is accepted; stored as a tuple.
        stop_token_ids: tokens after which the text ends, as after an end-of-text token.
        include_stop_str_in_output: keep the stop string in the text.
        min_new_tokens: minimum number of tokens before an end-of-text token or one of ``stop_token_ids``.
        max_new_tokens: maximum number of generated tokens. None: the model's limit.
        logprobs: report the log-probability of every generated token.
        top_logprobs: report this number of most probable tokens at each position, 0 to 20. Requires ``logprobs``.
        ignore_eos: continue after an end-of-text token.
        skip_special_tokens: omit special tokens from the text.
        bad_words: words that are not generated. A single string is accepted; stored as a tuple.
        repetition_guard: end a text that repeats itself endlessly (``repetition.find_loop``).
        json_schema: the text is JSON that conforms to this schema, a mapping or JSON text. Stored as JSON text.
        regex: the text matches this regular expression from its beginning to its end.

    Raises:
        PageError: a value has a wrong type or is out of range, or two settings exclude each other.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    stop: str | Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    include_stop_str_in_output: bool = False
    min_new_tokens: int = 0
    max_new_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    bad_words: str | Sequence[str] = ()
    repetition_guard: bool = True
    json_schema: Mapping[str, Any] | str | None = None
    regex: str | None = None

    def __post_init__(self) -> None:
        self._check_numbers()
        for name in (
            "include_stop_str_in_output",
            "logprobs",
            "ignore_eos",
            "skip_special_tokens",
            "repetition_guard",
        ):
            if not isinstance(value := getattr(self, name), bool):
                raise PageError(f"{name} is {value!r}: use True or False", code="not_boolean")
        for name in ("stop", "bad_words"):
            object.__setattr__(self, name, _strings(name, getattr(self, name)))
        ids = self.stop_token_ids
        if isinstance(ids, str | bytes) or not isinstance(ids, Sequence) or not all(_whole(token, 0) for token in ids):
            raise PageError(
                f"stop_token_ids is {ids!r:.80}: pass a list of token ids, whole numbers from 0",
                code="stop_token_ids_invalid",
            )
        object.__setattr__(self, "stop_token_ids", tuple(ids))
        if self.top_logprobs and not self.logprobs:
            raise PageError(
                f"top_logprobs is {self.top_logprobs}, but logprobs is off: set logprobs to True", code="logprobs_off"
            )
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise PageError(
                f"min_new_tokens is {self.min_new_tokens}, but max_new_tokens is {self.max_new_tokens}: "
                "use a minimum that does not exceed the maximum",
                code="min_tokens_over_max",
            )
        self._check_grammar()

    def _check_numbers(self) -> None:
        for name in ("top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "temperature"):
            if not _number(value := getattr(self, name)):
                raise PageError(f"{name} is {value!r}: use a finite number", code="not_finite")
        if self.temperature != 0 and not self.temperature >= SMALLEST_TEMPERATURE:
            raise PageError(
                f"temperature is {self.temperature!r}: use 0 (greedy) or a number from {SMALLEST_TEMPERATURE:f}",
                code="temperature_out_of_range",
            )
        if not 0 < self.top_p <= 1:
            raise PageError(f"top_p is {self.top_p!r}: use a number above 0 and up to 1", code="top_p_out_of_range")
        if not _whole(self.top_k, -1):
            raise PageError(f"top_k is {self.top_k!r}: use a number of tokens, or 0 to keep all", code="top_k_invalid")
        if not 0 <= self.min_p <= 1:
            raise PageError(f"min_p is {self.min_p!r}: use a number from 0 to 1", code="min_p_out_of_range")
        for name in ("presence_penalty", "frequency_penalty"):
            if abs(value := getattr(self, name)) > MOST_PENALTY:
                raise PageError(f"{name} is {value!r}: use a number from -2 to 2", code="penalty_out_of_range")
        if self.repetition_penalty <= 0:
            raise PageError(
                f"repetition_penalty is {self.repetition_penalty!r}: use a number above 0; 1 turns the penalty off",
                code="penalty_out_of_range",
            )
        for name in ("no_repeat_ngram_size", "min_new_tokens"):
            if not _whole(value := getattr(self, name), 0):
                raise PageError(f"{name} is {value!r}: use a whole number; 0 turns the setting off", code="not_whole")
        if self.seed is not None and not (_whole(self.seed, 0) and self.seed <= MOST_SEED):
            raise PageError(f"seed is {self.seed!r}: use a whole number from 0 to 2**64 - 1, or None", code="seed_invalid")
        if self.max_new_tokens is not None and not _whole(self.max_new_tokens, 1):
            raise PageError(
                f"max_new_tokens is {self.max_new_tokens!r}: use 1 or more, or None for the model's limit",
                code="not_positive",
            )
        if not (_whole(self.top_logprobs, 0) and self.top_logprobs <= MOST_TOP_LOGPROBS):
            raise PageError(
                f"top_logprobs is {self.top_logprobs!r}: use a whole number from 0 to {MOST_TOP_LOGPROBS}",
                code="top_logprobs_out_of_range",
            )

    def _check_grammar(self) -> None:
        if self.json_schema is not None and self.regex is not None:
            raise PageError("json_schema and regex are both given: use only one of them", code="grammar_conflict")
        if self.regex is not None and (not isinstance(self.regex, str) or not self.regex):
            raise PageError(f"regex is {self.regex!r:.80}: pass a regular expression as text, or None", code="regex_invalid")
        schema = self.json_schema
        if schema is None:
            return
        try:
            value = json.loads(schema) if isinstance(schema, str) else schema
            if not isinstance(value, Mapping):
                raise TypeError("it is not an object")
            text = json.dumps(dict(value), allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise PageError(
                f"json_schema is not a JSON object ({error}): pass a schema such as {{'type': 'object'}}",
                code="json_schema_invalid",
            ) from error
        object.__setattr__(self, "json_schema", text)

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken, without a random number."""
        return self.temperature == 0

    @property
    def constrained(self) -> bool:
        """Whether a grammar restricts the text."""
        return self.json_schema is not None or self.regex is not None

    @property
    def plain_greedy(self) -> bool:
        """Whether every token is the argmax of the raw logits, so that only it and its log-probability are needed.

        Stop strings, stop tokens, ``ignore_eos`` and the repetition guard depend on tokens and text, not on logits.
        """
        return (
            self.greedy
            and self.presence_penalty == 0
            and self.frequency_penalty == 0
            and self.repetition_penalty == 1
            and not self.no_repeat_ngram_size
            and not self.bad_words
            and not self.min_new_tokens
            and not self.top_logprobs
            and not self.constrained
        )

    def check_vocabulary(self, vocab_size: int) -> None:
        """Check that the model has all stop tokens.

        Raises:
            PageError: one of ``stop_token_ids`` is not below ``vocab_size``.
        """
        if self.stop_token_ids and (highest := max(self.stop_token_ids)) >= vocab_size:
            raise PageError(
                f"stop_token_ids contains {highest}, but the model has {vocab_size} tokens: use lower ids",
                code="token_id_unknown",
            )


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _strings(name: str, value: object) -> tuple[str, ...]:
    given = (value,) if isinstance(value, str) else value
    if isinstance(given, bytes) or not isinstance(given, Sequence) or not all(isinstance(text, str) for text in given):
        raise PageError(f"{name} is {value!r:.80}: pass a list of strings", code="not_strings")
    if not all(given):
        raise PageError(f"{name} contains an empty string: remove it", code="string_empty")
    return tuple(given)
