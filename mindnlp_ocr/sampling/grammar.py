"""Constrained generation: text that follows a JSON schema or a regular expression.

llguidance (MIT), an optional dependency, computes which tokens may follow at every position; the sampler bans the others. It
runs on the CPU with NumPy and a ``tokenizers`` tokenizer, and does not need PyTorch.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mindnlp_ocr.errors import PageError, SetupError
from mindnlp_ocr.sampling.params import SamplingParams

if TYPE_CHECKING:
    from llguidance import LLMatcher

WHITESPACE = r"[\x20\x0A\x0D\x09]{0,16}"  # between JSON tokens; the bound prevents endless blanks


class GrammarCompiler:
    """Compiles grammars for one tokenizer. Create it once: llguidance needs about a second to process a large vocabulary.

    Args:
        tokenizer: the tokenizer of the checkpoint.
        vocab_size: number of logits of the network, which may exceed the vocabulary of the tokenizer.
        eos_token_ids: end-of-text tokens, at least one.

    Raises:
        SetupError: llguidance is not installed.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        try:
            import llguidance
        except ImportError as error:
            raise SetupError(
                f"json_schema and regex need llguidance ({error}): run `pip install 'mindnlp-ocr[grammar]'`",
                code="package_missing",
            ) from error
        self._matcher = llguidance.LLMatcher
        self._eos_token_ids = tuple(eos_token_ids)
        self._tokenizer = llguidance.LLTokenizer(tokenizer.to_str(), n_vocab=vocab_size, eos_token=list(eos_token_ids))

    def grammar(self, params: SamplingParams) -> "Grammar | None":
        """Compile the grammar of one request; return None if it has neither a schema nor a regular expression.

        Raises:
            PageError: llguidance rejects the schema or the regular expression.
        """
        if params.json_schema is not None:
            name, make = "json_schema", self._matcher.grammar_from_json_schema
            options = {"overrides": {"whitespace_pattern": WHITESPACE}}
            text = make(params.json_schema, **options)  # type: ignore[arg-type]  # SamplingParams stores it as text
        elif params.regex is not None:
            name, text = "regex", self._matcher.grammar_from_regex(params.regex)
        else:
            return None
        reason = self._matcher.validate_grammar(text, self._tokenizer)
        if reason:
            raise PageError(
                f"{name} cannot be used as a grammar ({' '.join(reason.split()):.200}): correct or simplify it",
                code="grammar_invalid",
            )
        return Grammar(self._matcher(self._tokenizer, text, log_level=0), self._tokenizer.vocab_size, self._eos_token_ids)


class Grammar:
    """The tokens that the grammar of one request allows.

    Every call compares the tokens with those of the call before, so tokens may be withdrawn at any time.
    """

    def __init__(self, matcher: "LLMatcher", vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        self._matcher = matcher
        self._ends = sorted(set(eos_token_ids))
        self._vocab_size = vocab_size
        self._told: list[int] = []
        self._bits = np.zeros(-(-vocab_size // 32), np.int32)

    def allowed(self, token_ids: Sequence[int]) -> NDArray[np.bool_]:
        """Return which tokens may follow, bool [vocab].

        If the text is complete, the end-of-text tokens are allowed, too; after an end-of-text token, only they are allowed.

        Args:
            token_ids: all tokens that the request has generated.

        Raises:
            PageError: the tokens do not follow the grammar, or it is too complex for llguidance's limits.
        """
        if self._follow(list(token_ids)):
            allowed = np.zeros(self._vocab_size, np.bool_)
            allowed[self._ends] = True
            return allowed
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        self._check()
        bits = np.unpackbits(self._bits.view(np.uint8), bitorder="little", count=self._vocab_size)
        return bits.view(np.bool_)

    def complete(self, token_ids: Sequence[int]) -> bool:
        """Return whether the text may end after these tokens.

        Raises:
            PageError: see ``allowed``.
        """
        return self._follow(list(token_ids)) or self._matcher.is_accepting()

    def _follow(self, token_ids: list[int]) -> bool:
        """Bring the matcher to the state after these tokens, and return whether they contain an end-of-text token."""
        end = next((index for index, token in enumerate(token_ids) if token in self._ends), len(token_ids))
        text = token_ids[:end]
        same = next((n for n, (a, b) in enumerate(zip(self._told, text, strict=False)) if a != b), None)
        if same is None:
            same = min(len(self._told), len(text))
        if same < len(self._told):
            self._matcher.rollback(len(self._told) - same)
        taken = self._matcher.try_consume_tokens(text[same:])
        self._told = text[: same + taken]
        self._check()
        ended = end < len(token_ids)
        if len(self._told) < end or (ended and not self._matcher.is_accepting()):
            at = len(self._told)
            raise PageError(
                f"token {token_ids[at]} at position {at} does not follow the grammar of the request: "
                "choose only tokens that its mask allows",
                code="grammar_not_followed",
            )
        return ended

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = " ".join(self._matcher.get_error().split())
            raise PageError(f"the grammar of the request failed ({reason:.200}): simplify it", code="grammar_failed")
