"""The tokenizer of a checkpoint, from tokenizer.json or, if this file is not published, from vocab.json and merges.txt.

The latter is Qwen2's tokenizer: a byte-level BPE on NFC text, with the published rules for splitting (Qwen2's
tokenizer.json; transformers 4.57.6, ``Qwen2Tokenizer``).
"""

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from mindnlp_ocr.config import read_json
from mindnlp_ocr.errors import SetupError

SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def tokenizer_of(folder: Path) -> Tokenizer:
    """Load the tokenizer of a Hugging Face folder.

    Raises:
        SetupError: its files are missing, damaged or inconsistent.
    """
    whole, vocabulary, merges = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
    if whole.exists():
        try:
            return Tokenizer.from_file(str(whole))
        except Exception as error:  # tokenizers raises nothing narrower
            raise SetupError(f"{whole} cannot be read ({error}): copy it again", code="checkpoint_unreadable") from error
    if not (vocabulary.exists() and merges.exists()):
        raise SetupError(f"{whole} is missing: pass a complete Qwen2-VL folder", code="checkpoint_incomplete")
    try:
        tokenizer = Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    except Exception as error:  # as above
        raise SetupError(
            f"{vocabulary} cannot be read ({error}): copy it again, with merges.txt", code="checkpoint_unreadable"
        ) from error
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    _add(tokenizer, folder)
    return tokenizer


def _add(tokenizer: Tokenizer, folder: Path) -> None:
    """Add the tokens that are not in the vocabulary; tokenizer_config.json lists them by their ids."""
    path = folder / "tokenizer_config.json"
    listed: dict[str, dict[str, Any]] = read_json(path).get("added_tokens_decoder") or {}
    for number, about in sorted(listed.items(), key=lambda entry: int(entry[0])):
        flags = {name: bool(about.get(name)) for name in ("single_word", "lstrip", "rstrip", "normalized", "special")}
        content = str(about.get("content"))
        tokenizer.add_tokens([AddedToken(content, **flags)])
        if (found := tokenizer.token_to_id(content)) != int(number):
            raise SetupError(
                f"{path}: {content} is token {number}, but {found} in vocab.json: take both from one checkpoint",
                code="tokenizer_mismatch",
            )
