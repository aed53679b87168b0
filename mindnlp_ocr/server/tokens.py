"""Tokens as bytes and text, for log-probabilities, /tokenize and /detokenize."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

from mindnlp_ocr.processing.tokenizer import tokenizer_of
from mindnlp_ocr.server.errors import ApiError


def _letters() -> dict[str, int]:
    """The bytes that the letters of a byte-level BPE stand for (GPT-2's table, which Qwen2 uses too)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + number): byte for number, byte in enumerate(others)}


class Tokens:
    """The tokenizer of a checkpoint, for what clients read of single tokens.

    Args:
        folder: with the files of the tokenizer.
    """

    def __init__(self, folder: Path) -> None:
        self._tokenizer: Tokenizer = tokenizer_of(folder)
        self._added = {token_id: token.content for token_id, token in self._tokenizer.get_added_tokens_decoder().items()}
        self._letters = _letters()
        self.bytes_of = lru_cache(maxsize=1 << 16)(self._bytes_of)

    def _bytes_of(self, token_id: int) -> bytes:
        if token_id in self._added:
            return str(self._added[token_id]).encode()
        letters = self._tokenizer.id_to_token(token_id) or ""
        if all(letter in self._letters for letter in letters):
            return bytes(self._letters[letter] for letter in letters)
        return letters.encode()

    def text_of(self, token_id: int) -> str:
        """The token as text; what is no whole character is U+FFFD, as OpenAI has it."""
        return self.bytes_of(token_id).decode("utf-8", "replace")

    def encode(self, text: str) -> list[int]:
        """A text as token ids, nothing added.

        Raises:
            ApiError: it is no Unicode.
        """
        try:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        except (UnicodeEncodeError, TypeError) as error:  # half of a surrogate pair
            raise ApiError("prompt is no Unicode: give UTF-8", param="prompt") from error
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, special ones too.

        Raises:
            ApiError: an id that the model does not have.
        """
        size = self._tokenizer.get_vocab_size()
        if wrong := [token_id for token_id in token_ids if not 0 <= token_id < size]:
            raise ApiError(
                f"tokens holds {wrong[0]}, the model has {size} tokens: give ids from 0 up to that", param="tokens"
            )
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=False)
        return text
