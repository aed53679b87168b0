"""Tests of rules and filters against results of transformers 4.57.6 (tests/reference/record_sampling.py)."""

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mindnlp_ocr.sampling.params import SamplingParams
from mindnlp_ocr.sampling.rules import LOWEST, BadWords, History, Logits
from mindnlp_ocr.sampling.sampler import _filters, _rules
from tests.conftest import ROOT

ABOUT = json.loads((ROOT / "tests/goldens/sampling.json").read_text(encoding="utf-8"))
CASES = ABOUT["cases"]
TIED = (3, 4)  # rows of logits that hold equals


@pytest.fixture(scope="module")
def arrays() -> dict[str, NDArray[np.float32]]:
    with np.load(ROOT / "tests/goldens/sampling.npz") as file:
        return {name: file[name] for name in ("logits", "processed")}


def processed(logits: Logits, history: list[int], settings: dict[str, Any]) -> Logits:
    """Return the logits after the rules and filters of these settings; removed tokens are at minus infinity."""
    params = SamplingParams(**{name: value for name, value in settings.items() if name != "bad_words_ids"})
    rules = _rules(params, ABOUT["eos_token_ids"], None)
    if words := settings.get("bad_words_ids"):  # given as tokens, in front of the minimum as in ``_rules``
        rules.insert(len(rules) - bool(params.min_new_tokens), BadWords(words, ABOUT["eos_token_ids"]))
    known = History(params.no_repeat_ngram_size)
    known.follow(history)
    logits = logits.copy()
    for rule in rules:
        rule(logits, known)
    if params.greedy:
        return logits
    logits /= np.float32(params.temperature)
    for keep in _filters(params, logits.size):
        # As transformers does, over the whole vocabulary; the sampler passes on what is kept.
        left = np.full_like(logits, LOWEST)
        kept = keep(logits)
        left[kept] = logits[kept]
        logits = left
    return logits


@pytest.mark.parametrize("number", range(len(CASES)))
def test_the_same_tokens_are_kept_at_the_same_values(number: int, arrays: dict[str, NDArray[np.float32]]) -> None:
    case, expected = CASES[number], arrays["processed"][number]
    got = processed(arrays["logits"][case["row"]], ABOUT["histories"][case["history"]], case["settings"])
    kept = np.isfinite(expected)
    if "top_p" in case["settings"] and case["row"] in TIED:  # which of equals stay is open in PyTorch, how many is not
        got, expected, kept = np.sort(got), np.sort(expected), np.sort(kept)
    assert np.array_equal(np.isfinite(got), kept), case
    assert np.abs(got[kept] - expected[kept]).max() <= 1e-6


def test_the_recording_has_every_rule_and_removes_something_in_most_cases(arrays: dict[str, NDArray[np.float32]]) -> None:
    names = {name for case in CASES for name in case["settings"]}
    assert names == {
        *("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"),
        *("no_repeat_ngram_size", "bad_words_ids", "min_new_tokens"),
    }
    changed = sum(
        not np.array_equal(arrays["logits"][case["row"]], result)
        for case, result in zip(CASES, arrays["processed"], strict=True)
    )
    assert changed > 140
