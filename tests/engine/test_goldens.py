"""Tests that all pages, prompts and chats give the results of transformers in float32 (tests/reference/record.py)."""

import hashlib
from typing import Any

import numpy as np
import pytest

from mindnlp_ocr.modeling.rope import mrope_positions
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
from tests.conftest import CASES

every_case = pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])


@every_case
def test_prompt_tokens_grids_pixels_and_positions_are_exactly_the_references(
    model: Qwen2VLModel, golden_arrays: Any, case: dict[str, Any]
) -> None:
    prompt = model.processor.prompt(case["messages"])
    assert prompt.token_ids.tolist() == case["prompt_ids"]
    assert [list(image.grid_thw) for image in prompt.images] == case["image_grid_thw"]
    pixels = b"".join(image.patches().pixels.astype("<f4").tobytes() for image in prompt.images)
    assert hashlib.sha256(pixels).hexdigest() == case["pixels_sha256"]
    grids = [image.grid_thw for image in prompt.images]
    positions = mrope_positions(prompt.token_ids, grids, model.config.image_token_id, 2)
    np.testing.assert_array_equal(positions.ids, golden_arrays[f"{case['name']}/position_ids"])
    assert positions.delta == case["rope_delta"]


@every_case
def test_features_and_logits_are_within_a_thousandth_and_tokens_identical(
    model: Qwen2VLModel, golden_arrays: Any, case: dict[str, Any]
) -> None:
    prompt = model.processor.prompt(case["messages"])
    reading, logits = model.requests.trace(case["messages"], case["max_new_tokens"])
    if prompt.images:
        assert model.engine.manager is not None
        kept = [model.engine.manager.get_features(image.digest) for image in prompt.images]  # of the tower, once
        features = np.concatenate([array for array in kept if array is not None])
        np.testing.assert_allclose(features[::8], golden_arrays[f"{case['name']}/vision"], atol=1e-3)
    assert reading.token_ids == case["token_ids"]
    assert reading.finish_reason == case["finish_reason"]
    assert logits.shape == (len(case["token_ids"]), model.config.vocab_size)
    np.testing.assert_allclose(logits[0], golden_arrays[f"{case['name']}/logits"], atol=1e-3)
    assert reading.text == case["text"]
