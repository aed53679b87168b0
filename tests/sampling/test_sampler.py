"""Tests of the sampler: distribution, seeds, withdrawn tokens, ties and disabled settings."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from mindnlp_ocr.errors import PageError
from mindnlp_ocr.sampling import Choice, Sampler, SamplingParams
from mindnlp_ocr.sampling.rules import History, Logits, at_least, softmax, top_p
from mindnlp_ocr.sampling.sampler import bad_word_ids
from tests.sampling.conftest import EOS, VOCAB, random_logits


def sampler(vocab: int = VOCAB, **settings: Any) -> Sampler:
    return Sampler(SamplingParams(**settings), vocab, EOS if vocab > max(EOS) else (0,))


def network(token_ids: Sequence[int], vocab: int = 400) -> Logits:
    """Return logits that depend on the preceding tokens, as those of a network do."""
    return random_logits(hash(tuple(token_ids[-3:])) % 2**32, vocab)


def generated(chooser: Sampler, count: int) -> list[int]:
    token_ids = list[int]()
    for _ in range(count):
        token_ids.append(chooser.choose(network(token_ids), token_ids).token_id)
    return token_ids


def test_greedy_is_argmax_and_a_tie_is_its_first_token() -> None:
    logits = random_logits(1)
    assert sampler().choose(logits, []).token_id == int(logits.argmax())
    tied = np.zeros(VOCAB, np.float32)
    tied[[70, 900, 8000]] = 2
    assert sampler().choose(tied, []).token_id == 70
    assert sampler(no_repeat_ngram_size=1).choose(tied, [70]).token_id == 900


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0, "top_p": 0.3, "top_k": 2, "min_p": 0.4, "seed": 5},
        {"presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0},
        {"no_repeat_ngram_size": 0, "bad_words": (), "min_new_tokens": 0},
        {"temperature": 1.0, "top_k": 1},
        {"temperature": 1.0, "top_p": 1e-6},
        {"temperature": 1.0, "min_p": 1.0},
        {"temperature": 1e-5},
        {"logprobs": True, "top_logprobs": 3},
        {"no_repeat_ngram_size": 300},
        {"repetition_penalty": 1.2, "presence_penalty": 1.0, "frequency_penalty": 1.0},
    ],
    ids=str,
)
def test_what_is_off_or_has_nothing_to_count_is_argmax(settings: dict[str, Any]) -> None:
    for seed in range(20):
        logits = random_logits(seed)
        choice = sampler(**settings).choose(logits, [])
        assert choice.token_id == int(logits.argmax())
        assert choice.logprob == sampler().choose(logits, []).logprob


@pytest.mark.parametrize("k", [-1, 0, VOCAB, VOCAB + 1])
def test_a_top_k_that_keeps_all_changes_no_choice(k: int) -> None:
    logits = random_logits(2)
    for position in range(30):
        before = [0] * position
        without = sampler(temperature=1.0, seed=9).choose(logits, before)
        assert sampler(temperature=1.0, seed=9, top_k=k).choose(logits, before) == without


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 1.0}, {"temperature": 0.7}, {"temperature": 1.5, "top_k": 12}, {"temperature": 1.2, "top_p": 0.8}],
)
def test_tokens_come_as_often_as_their_probability(settings: dict[str, Any]) -> None:
    """Chi-square over 40 tokens: below the 99.9th percentile, which for 39 degrees of freedom is 72.1."""
    logits = random_logits(3, 40, 1.5)
    draws = 20_000
    chooser = sampler(40, seed=123, **settings)
    before = [0] * draws
    found = np.bincount([chooser.choose(logits, before[:n]).token_id for n in range(0, draws, 10)], minlength=40)
    values = logits.astype(np.float64) / settings["temperature"]
    probabilities = np.exp(values - values.max())
    if "top_k" in settings:
        probabilities[np.argsort(-values)[settings["top_k"] :]] = 0
    if "top_p" in settings:
        order = np.argsort(values)
        sums = np.cumsum(probabilities[order] / probabilities.sum())
        probabilities[order[sums <= 1 - settings["top_p"]]] = 0
    expected = probabilities / probabilities.sum() * (draws // 10)
    assert found[expected == 0].sum() == 0
    drawn = expected > 0
    assert ((found[drawn] - expected[drawn]) ** 2 / expected[drawn]).sum() < 72.1


def test_a_seed_gives_the_same_text_whatever_is_asked_between() -> None:
    alone = [generated(sampler(400, temperature=0.9, seed=seed), 25) for seed in range(4)]
    assert len({tuple(text) for text in alone}) == 4
    choosers = [sampler(400, temperature=0.9, seed=seed) for seed in range(4)]
    texts: list[list[int]] = [[], [], [], []]
    for step in range(25):  # in one batch, whose rows change places
        for row in np.random.default_rng(step).permutation(4):
            texts[row].append(choosers[row].choose(network(texts[row]), texts[row]).token_id)
    assert texts == alone


def test_a_seed_of_its_own_is_drawn_where_none_is_given() -> None:
    seeds = {sampler(temperature=1.0).seed for _ in range(8)}
    assert len(seeds) == 8
    first = sampler(400, temperature=1.0)
    assert generated(first, 10) == generated(sampler(400, temperature=1.0, seed=first.seed), 10)


def test_random_numbers_are_uniform_and_each_its_own() -> None:
    chooser = sampler(temperature=1.0, seed=2**64 - 1)
    numbers = [chooser.random(position) for position in range(4000)]
    assert len(set(numbers)) == 4000
    assert 0 <= min(numbers) < max(numbers) < 1
    counts = np.histogram(numbers, 16, (0, 1))[0]
    assert ((counts - 250) ** 2 / 250).sum() < 37.7  # 99.9th percentile of 15 degrees of freedom
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.06


SETTINGS: dict[str, Any] = {
    "temperature": 0.8,
    "seed": 4,
    "repetition_penalty": 1.3,
    "frequency_penalty": 0.2,
    "no_repeat_ngram_size": 2,
}


def test_tokens_may_be_taken_back() -> None:
    whole = generated(sampler(400, **SETTINGS), 40)
    chooser = sampler(400, **SETTINGS)
    assert generated(chooser, 40) == whole
    for kept in (30, 3, 39, 0):
        text = whole[:kept]
        while len(text) < 40:
            text.append(chooser.choose(network(text), text).token_id)
        assert text == whole
    other = [399, 398, *whole[2:20]]  # as long as what it knows, and another
    assert chooser.choose(network(other), other) == sampler(400, **SETTINGS).choose(network(other), other)


def test_a_long_history_counts_every_token() -> None:
    """A history grows beyond its initial capacity, with tokens added one by one and all at once."""
    ids = np.random.default_rng(2).integers(0, 3000, 2500).tolist()
    told, grown = History(), History()
    told.follow(ids)
    for length in range(0, len(ids) + 1, 50):
        grown.follow(ids[:length])
    for history in (told, grown):
        tokens, counts = np.unique(ids, return_counts=True)
        order = np.argsort(history.different)
        assert history.different[order].tolist() == tokens.tolist()
        assert history.counts[order].tolist() == counts.tolist()


def test_no_pair_of_tokens_comes_twice_where_that_is_forbidden() -> None:
    logits = random_logits(5, 400, 6.0)  # the same at every position: it would repeat itself
    chooser, text = sampler(400, no_repeat_ngram_size=2), list[int]()
    for _ in range(100):
        text.append(chooser.choose(logits, text).token_id)
    pairs = list(itertools.pairwise(text))
    assert len(set(pairs)) == len(pairs)
    assert len(set(text)) < 100


def test_no_end_before_the_minimum() -> None:
    logits = random_logits(6)
    logits[[*EOS, 17]] = 50
    chooser = sampler(min_new_tokens=3, stop_token_ids=[17])
    assert not {*EOS, 17} & {chooser.choose(logits, [0] * count).token_id for count in range(3)}
    assert chooser.choose(logits, [0] * 3).token_id == 17


def test_bad_words_are_not_written(tokenizer: Tokenizer) -> None:
    word = "Total"
    plain, spaced = bad_word_ids(word, tokenizer)
    assert [tokenizer.decode(ids) for ids in (plain, spaced)] == [word, f" {word}"]
    chooser = Sampler(SamplingParams(bad_words=word), VOCAB, EOS, tokenizer=tokenizer)
    for ids in (plain, spaced):
        logits = random_logits(7)
        logits[ids[-1]] = 50
        assert chooser.choose(logits, [5, 6, *ids[:-1]]).token_id != ids[-1]
        assert chooser.choose(logits, ids[:-1]).token_id != ids[-1]  # the first word of a text
        if len(ids) > 1:
            assert chooser.choose(logits, [5, 6]).token_id == ids[-1]
    with pytest.raises(ValueError, match="need a tokenizer"):
        Sampler(SamplingParams(bad_words=word), VOCAB, EOS)


def test_log_probabilities_are_of_the_raw_logits() -> None:
    logits = random_logits(8)
    logits[[10, 4000]] = logits.max() + 1  # a tie at the top
    exact = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum())
    plain = sampler(logprobs=True, top_logprobs=5).choose(logits, [])
    order = np.lexsort((np.arange(VOCAB), -logits))[:5]
    assert [token for token, _ in plain.top_logprobs] == order.tolist()
    assert np.allclose([value for _, value in plain.top_logprobs], exact[order], atol=2e-6)
    assert plain.logprob == plain.top_logprobs[0][1]
    ruled = sampler(temperature=0.5, top_k=3, no_repeat_ngram_size=1, logprobs=True, top_logprobs=5, seed=1).choose(
        logits, [10]
    )
    assert ruled.token_id != 10
    assert ruled.top_logprobs == plain.top_logprobs
    assert ruled.logprob == pytest.approx(exact[ruled.token_id], abs=2e-6)
    assert sampler().choose(logits, []) == Choice(10, plain.logprob, [])


def test_logits_are_left_as_they_were() -> None:
    logits = random_logits(9)
    before = logits.copy()
    sampler(**SETTINGS, top_k=5, top_p=0.5, min_p=0.1, presence_penalty=1).choose(logits, [1, 2, 3])
    assert np.array_equal(logits, before)


def test_rules_that_leave_no_token_are_the_requests_fault() -> None:
    chooser = sampler(40, no_repeat_ngram_size=1)
    with pytest.raises(PageError, match=r"^no token is allowed at position 40: "):
        chooser.choose(random_logits(1, 40), list(range(40)))


def test_what_only_a_program_can_get_wrong_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"logits are float64 \[8192\]"):
        sampler().choose(np.zeros(VOCAB), [])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"logits are float32 \[9\]"):
        sampler().choose(np.zeros(9, np.float32), [])
    with pytest.raises(ValueError, match="a request needs a grammar"):
        sampler(regex="a")
    with pytest.raises(PageError, match="stop_token_ids contains 8192"):
        sampler(stop_token_ids=[8192])


@pytest.mark.parametrize("vocab", [100, 8192, 20_011])
@pytest.mark.parametrize("ties", [False, True])
def test_the_highest_are_those_of_a_whole_partition(vocab: int, ties: bool) -> None:
    for seed in range(5):
        values = random_logits(seed, vocab)
        values = np.round(values) if ties else values
        values[::7] = -np.inf
        for k in (1, 2, 20, 63, 90, vocab - 1, vocab, vocab + 5):
            border = -np.inf if k >= vocab else np.sort(values)[vocab - k]
            assert np.array_equal(at_least(values, k), np.flatnonzero(values >= border))


@pytest.mark.parametrize("scale", [0.1, 3.0, 9.0])
def test_top_p_is_that_of_a_whole_sort(scale: float) -> None:
    for seed in range(5):
        logits = np.round(random_logits(seed, 20_011, scale), 2)  # with ties
        for p in (0.05, 0.5, 0.9, 0.99, 0.9999):
            order = np.lexsort((-np.arange(logits.size), logits))
            sums = np.cumsum(softmax(logits)[order], dtype=np.float64)
            kept = order[sums > 1 - p]
            got = set(top_p(p)(logits).tolist())
            # A token whose sum lies within float32's rounding of 1 - p may go either way.
            near = set(order[np.abs(sums - (1 - p)) < 1e-6].tolist())
            assert got - near == set(kept.tolist()) - near
