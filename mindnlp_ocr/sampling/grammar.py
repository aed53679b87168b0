"""Text that follows a JSON schema or a regular expression, by llguidance (MIT), an optional dependency.

llguidance works on the CPU with NumPy and a ``tokenizers`` tokenizer, without PyTorch. For every position it says which
tokens may follow; the sampler bans the others.
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

WHITESPACE = r"[\x20\x0A\x0D\x09]{0,16}"  # between JSON's tokens: bounded, or a model may write blanks without end


class GrammarCompiler:
    """Makes grammars for one tokenizer. llguidance gives about a second for reading a large vocabulary: make it once.

    Args:
        tokenizer: of the checkpoint.
        vocab_size: how many logits the network gives; it may be more than the tokenizer has.
        eos_token_ids: tokens that end a text, at least one.

    Raises:
        SetupError: llguidance is not installed.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        try:
            import llguidance
        except ImportError as error:
            raise SetupError(
                f"json_schema and regex need llguidance ({error}): run `pip install 'mindnlp-ocr[grammar]'`"
            ) from error
        self._matcher = llguidance.LLMatcher
        self._eos_token_ids = tuple(eos_token_ids)
        self._tokenizer = llguidance.LLTokenizer(tokenizer.to_str(), n_vocab=vocab_size, eos_token=list(eos_token_ids))

    def grammar(self, params: SamplingParams) -> "Grammar | None":
        """The grammar of a request, for it alone; None where it has neither a schema nor an expression.

        Raises:
            PageError: llguidance refuses the schema or the expression.
        """
        if params.json_schema is not None:
            name, make = "json_schema", self._matcher.grammar_from_json_schema
            options = {"overrides": {"whitespace_pattern": WHITESPACE}}
            text = make(params.json_schema, **options)  # type: ignore[arg-type]  # params keep it as text
        elif params.regex is not None:
            name, text = "regex", self._matcher.grammar_from_regex(params.regex)
        else:
            return None
        reason = self._matcher.validate_grammar(text, self._tokenizer)
        if reason:
            raise PageError(f"{name} cannot be followed ({' '.join(reason.split()):.200}): correct or simplify it")
        return Grammar(self._matcher(self._tokenizer, text, log_level=0), self._tokenizer.vocab_size, self._eos_token_ids)


class Grammar:
    """Which tokens may follow in one request.

    It keeps what it was told so far and compares: tokens may be taken back at any time.
    """

    def __init__(self, matcher: "LLMatcher", vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        self._matcher = matcher
        self._ends = sorted(set(eos_token_ids))
        self._vocab_size = vocab_size
        self._told: list[int] = []
        self._bits = np.zeros(-(-vocab_size // 32), np.int32)

    def allowed(self, token_ids: Sequence[int]) -> NDArray[np.bool_]:
        """Which tokens may follow these, bool [vocab]. Where the text is complete the end-of-text tokens are among them, and
        behind an end-of-text token they are all.

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
        """Whether the text may end after these tokens.

        Raises:
            PageError: as ``allowed``.
        """
        return self._follow(list(token_ids)) or self._matcher.is_accepting()

    def _follow(self, token_ids: list[int]) -> bool:
        """Tell the matcher of these tokens, up to an end-of-text token; whether there is one."""
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
                "choose tokens by its mask"
            )
        return ended

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = " ".join(self._matcher.get_error().split())
            raise PageError(f"the grammar of the request failed ({reason:.200}): simplify it")
