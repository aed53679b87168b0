"""Tests of sampling in a graph against the sampler on the host."""

from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindnlp_ocr.sampling import Sampler, SamplingParams
from mindnlp_ocr.sampling.graph import SampleFromHistory, SampleTokens
from mindnlp_ocr.sampling.sampler import BANS, HISTORY
from tests.sampling.conftest import random_logits

VOCAB = 997
SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 1},
    {"temperature": 1.3, "top_k": 40},
    {"temperature": 0.9, "top_p": 0.8},
    {"temperature": 1.1, "min_p": 0.1},
    {"temperature": 1.5, "top_k": 200, "top_p": 0.9, "min_p": 0.02},
    {"repetition_penalty": 1.4, "presence_penalty": 0.8, "frequency_penalty": 0.3},
    {"temperature": 0.8, "repetition_penalty": 1.2, "presence_penalty": 1.5, "frequency_penalty": -0.4, "top_p": 0.95},
    {"temperature": 1.0, "no_repeat_ngram_size": 1},
    {"temperature": 1e-5},
    {"temperature": 2.0, "top_p": 0.01},
]
NAMES = ("temperature", "top_k", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")


@pytest.mark.parametrize("compiled", [True, False], ids=["graph", "eager"])
def test_a_batch_of_any_settings_gives_the_tokens_of_each_alone(compiled: bool) -> None:
    cell = SampleTokens()
    sample = ms.jit(cell) if compiled else cell
    params = [SamplingParams(seed=row, **settings) for row, settings in enumerate(SETTINGS)]
    samplers = [Sampler(each, VOCAB, [0]) for each in params]
    settings = [
        Tensor(np.array([getattr(each, name) for each in params], np.int32 if name == "top_k" else np.float32))
        for name in NAMES
    ]
    texts = [np.random.default_rng(row).integers(0, 200, 30).tolist() for row in range(len(params))]
    drawn = set()
    for step in range(25):
        logits = np.stack([random_logits(100 * step + row, VOCAB) for row in range(len(params))])
        counts = np.stack([np.bincount(text, minlength=VOCAB) for text in texts]).astype(np.int32)
        banned = (counts > 0) & np.array([[each.no_repeat_ngram_size == 1] for each in params])
        uniform = np.array([s.random(len(text)) for s, text in zip(samplers, texts, strict=True)], np.float32)
        got = sample(Tensor(logits), *settings, Tensor(counts), Tensor(banned), Tensor(uniform)).asnumpy()
        expected = [s.choose(row, text).token_id for s, row, text in zip(samplers, logits, texts, strict=True)]
        assert got.dtype == np.int32
        assert got.tolist() == expected
        drawn |= {int(token != row.argmax()) for token, row in zip(expected, logits, strict=True)}
        texts = [[*text, token] for text, token in zip(texts, expected, strict=True)]
    assert drawn == {0, 1}


def test_random_numbers_at_the_ends_give_tokens_that_are_kept() -> None:
    logits = Tensor(np.zeros((2, 8), np.float32))
    rows, ones, none = np.ones(2, np.float32), Tensor(np.ones(2, np.float32)), Tensor(np.zeros(2, np.float32))
    banned = np.zeros((2, 8), np.bool_)
    banned[:, [0, 7]] = True
    counts, uniform = Tensor(np.zeros((2, 8), np.int32)), Tensor(np.array([0, 1], np.float32))
    tokens = ms.jit(SampleTokens())(
        logits, Tensor(rows), Tensor(np.zeros(2, np.int32)), ones, none, none, none, ones, counts, Tensor(banned), uniform
    )
    assert tokens.asnumpy().tolist() == [1, 6]


def test_an_engine_gives_the_tokens_themselves_and_gets_log_probabilities() -> None:
    sample = ms.jit(SampleFromHistory())
    params = [SamplingParams(seed=row, **settings) for row, settings in enumerate(SETTINGS)]
    params[3] = SamplingParams(temperature=1.0, seed=3, min_new_tokens=50)
    samplers = [Sampler(each, VOCAB, [0]) for each in params]
    texts = [np.random.default_rng(row).integers(0, 200, 10 + row).tolist() for row in range(len(params))]
    rows = [sampler.row(text) for sampler, text in zip(samplers, texts, strict=True)]
    history, bans = np.full((len(rows), HISTORY), -1, np.int32), np.full((len(rows), BANS), -1, np.int32)
    for number, row in enumerate(rows):
        assert row is not None
        history[number, : len(row.history)], bans[number, : len(row.bans)] = row.history, row.bans
    settings = [
        Tensor(np.array([getattr(each, name) for each in params], np.int32 if name == "top_k" else np.float32))
        for name in NAMES
    ]
    logits = np.stack([random_logits(row, VOCAB) for row in range(len(params))])
    logits[3, 0] = 50.0  # the end of the text, which comes too early
    uniform = np.array([s.random(len(text)) for s, text in zip(samplers, texts, strict=True)], np.float32)
    tokens, logprobs = sample(Tensor(logits), *settings, Tensor(history), Tensor(bans), Tensor(uniform))
    for number in range(len(rows)):
        expected = samplers[number].choose(logits[number], texts[number])
        assert int(tokens.asnumpy()[number]) == expected.token_id
        assert float(logprobs.asnumpy()[number]) == pytest.approx(expected.logprob, abs=1e-4)
    assert int(tokens.asnumpy()[3]) != 0


def test_what_a_row_of_the_graph_cannot_take_is_left_to_the_host() -> None:
    assert Sampler(SamplingParams(logprobs=True, top_logprobs=2), VOCAB, [0]).row([1]) is None
    assert Sampler(SamplingParams(temperature=1.0), VOCAB, [0]).row([1] * (HISTORY + 1)) is None
    many = Sampler(SamplingParams(no_repeat_ngram_size=1), VOCAB, [0])
    assert many.row(list(range(BANS))) is not None
    assert many.row(list(range(BANS + 1))) is None
