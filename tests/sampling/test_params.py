"""Tests of SamplingParams: errors, stored values, and which settings allow the greedy path."""

import dataclasses
import json
from typing import Any

import pytest

from mindnlp_ocr.errors import PageError
from mindnlp_ocr.sampling import SamplingParams

NUMBER = "use a finite number"
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"temperature": "hot"}, f"temperature is 'hot': {NUMBER}"),
    ({"temperature": float("nan")}, f"temperature is nan: {NUMBER}"),
    ({"temperature": True}, f"temperature is True: {NUMBER}"),
    ({"temperature": -0.5}, "temperature is -0.5: use 0 (greedy) or a number from 0.000010"),
    ({"temperature": 1e-7}, "temperature is 1e-07: use 0 (greedy) or a number from 0.000010"),
    ({"top_p": 0}, "top_p is 0: use a number above 0 and up to 1"),
    ({"top_p": 1.5}, "top_p is 1.5: use a number above 0 and up to 1"),
    ({"top_k": -2}, "top_k is -2: use a number of tokens, or 0 to keep all"),
    ({"top_k": 2.0}, "top_k is 2.0: use a number of tokens, or 0 to keep all"),
    ({"min_p": -0.1}, "min_p is -0.1: use a number from 0 to 1"),
    ({"min_p": float("inf")}, f"min_p is inf: {NUMBER}"),
    ({"seed": -1}, "seed is -1: use a whole number from 0 to 2**64 - 1, or None"),
    ({"seed": 2**64}, "seed is 18446744073709551616: use a whole number from 0 to 2**64 - 1, or None"),
    ({"presence_penalty": 2.1}, "presence_penalty is 2.1: use a number from -2 to 2"),
    ({"frequency_penalty": -3}, "frequency_penalty is -3: use a number from -2 to 2"),
    ({"repetition_penalty": 0}, "repetition_penalty is 0: use a number above 0; 1 turns the penalty off"),
    ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size is -1: use a whole number; 0 turns the setting off"),
    ({"min_new_tokens": None}, "min_new_tokens is None: use a whole number; 0 turns the setting off"),
    ({"max_new_tokens": 0}, "max_new_tokens is 0: use 1 or more, or None for the model's limit"),
    (
        {"min_new_tokens": 9, "max_new_tokens": 8},
        "min_new_tokens is 9, but max_new_tokens is 8: use a minimum that does not exceed the maximum",
    ),
    ({"stop": 5}, "stop is 5: pass a list of strings"),
    ({"stop": [b"x"]}, "stop is [b'x']: pass a list of strings"),
    ({"stop": ["a", ""]}, "stop contains an empty string: remove it"),
    ({"bad_words": ""}, "bad_words contains an empty string: remove it"),
    ({"bad_words": None}, "bad_words is None: pass a list of strings"),
    ({"stop_token_ids": "12"}, "stop_token_ids is '12': pass a list of token ids, whole numbers from 0"),
    ({"stop_token_ids": [-1]}, "stop_token_ids is [-1]: pass a list of token ids, whole numbers from 0"),
    ({"logprobs": 1}, "logprobs is 1: use True or False"),
    ({"ignore_eos": None}, "ignore_eos is None: use True or False"),
    ({"skip_special_tokens": "no"}, "skip_special_tokens is 'no': use True or False"),
    ({"include_stop_str_in_output": 0}, "include_stop_str_in_output is 0: use True or False"),
    ({"repetition_guard": 0}, "repetition_guard is 0: use True or False"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs is 21: use a whole number from 0 to 20"),
    ({"top_logprobs": 5}, "top_logprobs is 5, but logprobs is off: set logprobs to True"),
    ({"regex": "a", "json_schema": {}}, "json_schema and regex are both given: use only one of them"),
    ({"regex": ""}, "regex is '': pass a regular expression as text, or None"),
    (
        {"json_schema": [1]},
        "json_schema is not a JSON object (it is not an object): pass a schema such as {'type': 'object'}",
    ),
    (
        {"json_schema": "{"},
        "json_schema is not a JSON object (Expecting property name enclosed in double quotes: line 1 column 2 (char 1)): "
        "pass a schema such as {'type': 'object'}",
    ),
]


@pytest.mark.parametrize(("given", "message"), REFUSED, ids=[str(given)[:40] for given, _ in REFUSED])
def test_a_bad_value_is_refused_with_its_remedy(given: dict[str, Any], message: str) -> None:
    with pytest.raises(PageError) as caught:
        SamplingParams(**given)
    assert str(caught.value) == message


def test_stop_tokens_are_held_against_the_vocabulary() -> None:
    params = SamplingParams(stop_token_ids=[3, 10])
    params.check_vocabulary(11)
    with pytest.raises(PageError, match=r"^stop_token_ids contains 10, but the model has 10 tokens: use lower ids$"):
        params.check_vocabulary(10)


def test_one_text_is_a_list_of_one_and_lists_are_kept_as_tuples() -> None:
    params = SamplingParams(stop="END", bad_words=["a", "b"], stop_token_ids=[4])
    assert (params.stop, params.bad_words, params.stop_token_ids) == (("END",), ("a", "b"), (4,))
    assert hash(params) == hash(SamplingParams(stop=["END"], bad_words=("a", "b"), stop_token_ids=(4,)))


def test_a_schema_is_the_same_as_text_and_as_a_mapping() -> None:
    schema = {"type": "object", "properties": {"total": {"type": "number"}}}
    assert SamplingParams(json_schema=schema) == SamplingParams(json_schema=json.dumps(schema))


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SamplingParams().top_k = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"top_p": 0.5, "top_k": 3, "min_p": 0.1, "seed": 4},
        {"stop": "x", "stop_token_ids": [1], "ignore_eos": True, "repetition_guard": False, "max_new_tokens": 4},
        {"logprobs": True, "skip_special_tokens": False, "include_stop_str_in_output": True},
    ],
)
def test_what_looks_at_tokens_and_text_leaves_the_greedy_path(given: dict[str, Any]) -> None:
    assert SamplingParams(**given).plain_greedy


@pytest.mark.parametrize(
    "given",
    [
        {"temperature": 0.1},
        {"presence_penalty": 0.1},
        {"frequency_penalty": -0.1},
        {"repetition_penalty": 1.1},
        {"no_repeat_ngram_size": 2},
        {"bad_words": "x"},
        {"min_new_tokens": 1},
        {"logprobs": True, "top_logprobs": 1},
        {"json_schema": {}},
        {"regex": "x"},
    ],
)
def test_what_looks_at_logits_does_not(given: dict[str, Any]) -> None:
    assert not SamplingParams(**given).plain_greedy
