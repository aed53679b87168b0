"""Conversion of tokens to bytes and text, for log-probabilities, /tokenize and /detokenize."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

from mindnlp_ocr.processing.tokenizer import tokenizer_of
from mindnlp_ocr.server.errors import ApiError


def _letters() -> dict[str, int]:
    """Return the byte for each character of a byte-level BPE vocabulary (GPT-2's table, which Qwen2 also uses)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + number): byte for number, byte in enumerate(others)}


class Tokens:
    """The tokenizer of a checkpoint, with access to the bytes of single tokens.

    Args:
        folder: folder with the files of the tokenizer.
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
        """Return a token as text, with U+FFFD for incomplete characters, as in OpenAI's API."""
        return self.bytes_of(token_id).decode("utf-8", "replace")

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without additional special tokens.

        Raises:
            ApiError: the text is not valid Unicode.
        """
        try:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        except (UnicodeEncodeError, TypeError) as error:  # half of a surrogate pair
            raise ApiError("prompt is not valid Unicode: use UTF-8", param="prompt", code="text_not_unicode") from error
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens, including special tokens.

        Raises:
            ApiError: an id is outside the vocabulary.
        """
        size = self._tokenizer.get_vocab_size()
        if wrong := [token_id for token_id in token_ids if not 0 <= token_id < size]:
            raise ApiError(
                f"tokens contains {wrong[0]}, but the model has {size} tokens: use ids below that",
                param="tokens",
                code="token_id_unknown",
            )
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=False)
        return text
