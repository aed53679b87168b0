"""A tokenizer that is built of vocab.json and merges.txt is the one of tokenizer.json."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.models.qwen2vl import EMBEDDED
from mindnlp_ocr.processing.tokenizer import tokenizer_of
from mindnlp_ocr.server.tokens import Tokens
from tests.conftest import CASES

PUBLISHED = tokenizer_of(EMBEDDED)


def copied(folder: Path) -> Path:
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(EMBEDDED / name, folder)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tokenizer_of(copied(tmp_path_factory.mktemp("built")))


def test_both_give_the_same_tokens_and_texts_of_the_golden_pages(built: Tokenizer) -> None:
    assert built.get_vocab() == PUBLISHED.get_vocab()
    for case in CASES:
        text = f"<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{case['text']}<|im_end|>\n"
        ids = PUBLISHED.encode(text, add_special_tokens=False).ids
        assert built.encode(text, add_special_tokens=False).ids == ids
        for skipped in (False, True):
            assert built.decode(case["prompt_ids"], skip_special_tokens=skipped) == PUBLISHED.decode(
                case["prompt_ids"], skip_special_tokens=skipped
            )


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_both_give_the_same_tokens_of_any_text(built: Tokenizer, text: str) -> None:
    assert built.encode(text, add_special_tokens=False).ids == PUBLISHED.encode(text, add_special_tokens=False).ids


def test_the_server_takes_it_as_well(tmp_path: Path) -> None:
    tokens = Tokens(copied(tmp_path))
    assert tokens.encode("Total 12,50") == Tokens(EMBEDDED).encode("Total 12,50")


def edited(folder: Path, **changes: Any) -> Path:
    path = copied(folder) / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")
    return folder


def test_what_is_missing_damaged_or_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"tokenizer\.json is missing: pass a complete Qwen2-VL folder"):
        tokenizer_of(tmp_path)
    moved = edited(tmp_path, added_tokens_decoder={"9000": {"content": "<|im_end|>", "special": True}})
    with pytest.raises(SetupError, match=r"<\|im_end\|> is token 9000, but 8128 in vocab\.json: take both from one"):
        tokenizer_of(moved)
    (tmp_path / "vocab.json").write_text("{", encoding="utf-8")
    with pytest.raises(SetupError, match=r"vocab\.json cannot be read \(.*\): copy it again, with merges\.txt"):
        tokenizer_of(tmp_path)
