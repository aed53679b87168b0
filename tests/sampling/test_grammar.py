"""Tests of text that follows a JSON schema or a regular expression, with arbitrary logits."""

import json
import re
import sys
from typing import Any

import jsonschema
import numpy as np
import pytest
from tokenizers import Tokenizer

from mindnlp_ocr.errors import PageError, SetupError
from mindnlp_ocr.sampling import Grammar, GrammarCompiler, Sampler, SamplingParams
from tests.sampling.conftest import EOS, VOCAB, random_logits

INVOICE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "number": {"type": "string", "maxLength": 12},
        "currency": {"enum": ["EUR", "USD", "人民币"]},
        "paid": {"type": "boolean"},
        "lines": {
            "type": "array",
            "minItems": 1,
            "maxItems": 3,
            "items": {
                "type": "object",
                "properties": {
                    "count": {"type": "integer", "minimum": 0, "maximum": 999},
                    "text": {"type": "string", "maxLength": 8},
                },
                "required": ["count", "text"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["number", "currency", "paid", "lines"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer, VOCAB, EOS)


def made(compiler: GrammarCompiler, params: SamplingParams) -> Grammar:
    grammar = compiler.grammar(params)
    assert grammar is not None
    return grammar


def written(compiler: GrammarCompiler, params: SamplingParams, seed: int) -> list[int]:
    """Generate tokens up to the end of the text with logits that do not prefer any token."""
    chooser = Sampler(params, VOCAB, EOS, grammar=made(compiler, params))
    ids = list[int]()
    for step in range(2000):
        token = chooser.choose(random_logits(1000 * seed + step), ids).token_id
        if token in EOS:
            return ids
        ids.append(token)
    raise AssertionError("the text does not end")


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_json_parses_and_follows_its_schema(
    seed: int, temperature: float, compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    params = SamplingParams(json_schema=INVOICE, temperature=temperature, seed=seed)
    text = tokenizer.decode(written(compiler, params, seed), skip_special_tokens=False)
    jsonschema.validate(json.loads(text), INVOICE)


@pytest.mark.parametrize("seed", range(6))
def test_text_matches_its_expression(seed: int, compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    expression = r"[A-Z]{2}-[0-9]{4}/(合|发票)"
    text = tokenizer.decode(written(compiler, SamplingParams(regex=expression), seed))
    assert re.fullmatch(expression, text)


def test_a_mask_follows_the_tokens_that_it_is_given(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    params = SamplingParams(json_schema=INVOICE)
    ids = written(compiler, params, 3)
    once = [made(compiler, params).allowed(ids[:length]) for length in range(len(ids) + 1)]
    assert all(mask.shape == (VOCAB,) and mask[token] for mask, token in zip(once, ids, strict=False))
    assert set(np.flatnonzero(once[-1])) >= set(EOS)
    again = made(compiler, params)
    for length in [*range(len(ids) + 1), 2, len(ids), 0, 5, 4, 3]:  # forth and back
        assert np.array_equal(again.allowed(ids[:length]), once[length])
        assert again.complete(ids[:length]) == (length == len(ids))
    assert np.flatnonzero(again.allowed([*ids, EOS[0]])).tolist() == sorted(EOS)  # ended, and asked on
    assert np.array_equal(again.allowed(ids[:4]), once[4])


def test_a_token_that_does_not_follow_is_refused_and_can_be_taken_back(compiler: GrammarCompiler) -> None:
    grammar = made(compiler, SamplingParams(regex="[0-9]{3}"))
    first = grammar.allowed([])
    token = int(np.flatnonzero(~first)[0])
    with pytest.raises(PageError, match=rf"^token {token} at position 0 does not follow the grammar of the request: "):
        grammar.allowed([token])
    assert np.array_equal(grammar.allowed([]), first)
    with pytest.raises(PageError, match=rf"^token {EOS[0]} at position 0 does not follow"):
        grammar.allowed([EOS[0]])  # an end before the text is complete


def test_no_token_beyond_the_tokenizers_own_is_allowed(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    allowed = made(compiler, SamplingParams(regex="(.|\n)*")).allowed([])
    assert allowed.sum() > 7000
    assert not allowed[tokenizer.get_vocab_size() :].any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"json_schema": {"type": "nonsense"}},
            "json_schema cannot be used as a grammar (Invalid type: nonsense): correct or simplify it",
        ),
        ({"regex": "a("}, 'regex cannot be used as a grammar (at 1(8): invalid regex "a("'),
    ],
)
def test_what_cannot_be_followed_is_the_requests_fault(
    settings: dict[str, Any], message: str, compiler: GrammarCompiler
) -> None:
    with pytest.raises(PageError) as caught:
        compiler.grammar(SamplingParams(**settings))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_an_end_that_is_forbidden_where_only_the_end_is_allowed(compiler: GrammarCompiler) -> None:
    params = SamplingParams(regex="a", min_new_tokens=5)
    chooser = Sampler(params, VOCAB, EOS, grammar=made(compiler, params))
    token = chooser.choose(random_logits(1), []).token_id
    with pytest.raises(PageError, match=r"^no token is allowed at position 1: "):
        chooser.choose(random_logits(1), [token])


def test_a_request_without_a_grammar_has_none(compiler: GrammarCompiler) -> None:
    assert compiler.grammar(SamplingParams()) is None


def test_without_the_library_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(
        SetupError, match=r"^json_schema and regex need llguidance .*: run `pip install 'mindnlp-ocr\[grammar\]'`$"
    ):
        GrammarCompiler(tokenizer, VOCAB, EOS)
