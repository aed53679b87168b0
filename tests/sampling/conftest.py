"""Fixtures: the built-in tokenizer, and logits."""

import numpy as np
import pytest
from tokenizers import Tokenizer

from mindnlp_ocr.sampling.rules import Logits
from tests.conftest import ROOT

VOCAB = 8192  # of the built-in checkpoint's logits; its tokenizer has fewer
EOS = (8130, 8128)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(ROOT / "mindnlp_ocr/assets/qwen2vl-ocr-tiny/tokenizer.json"))


def random_logits(seed: int, vocab: int = VOCAB, scale: float = 3.0) -> Logits:
    return (np.random.default_rng(seed).standard_normal(vocab) * scale).astype(np.float32)
