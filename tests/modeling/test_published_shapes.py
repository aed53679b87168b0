"""Random weights at the true layer shapes of Qwen2-VL-2B and -7B (few layers, small vocabulary) against transformers."""

import json
from typing import Any

import numpy as np
import pytest

from mindnlp_ocr.cache.slots import KVSlots
from mindnlp_ocr.engine.graphs import Graphs
from mindnlp_ocr.modeling.rope import mrope_positions
from mindnlp_ocr.models.config import Qwen2VLConfig
from mindnlp_ocr.ops import native
from mindnlp_ocr.ops.device import Device
from mindnlp_ocr.ops.select import Implementation, attentions_for
from mindnlp_ocr.processing.images import Patches
from mindnlp_ocr.weights.names import expected_shapes
from tests.conftest import GOLDENS
from tests.reference import random_weights

MODELS: list[dict[str, Any]] = json.loads((GOLDENS / "shapes.json").read_text(encoding="utf-8"))["models"]
MAX_LENGTH = 64
with_library = pytest.mark.skipif(not native.available()[0], reason=native.available()[1])


@pytest.mark.parametrize("implementation", ["eager", pytest.param("flash", marks=with_library)])
@pytest.mark.parametrize("spec", MODELS, ids=[spec["name"] for spec in MODELS])
def test_vision_features_logits_and_tokens_match(spec: dict[str, Any], implementation: Implementation) -> None:
    size = spec["name"]
    golden = np.load(GOLDENS / "shapes.npz", allow_pickle=False)
    config = Qwen2VLConfig.from_dict(spec["config"])
    weights = dict(random_weights.state_dict(spec["config"], spec["seed"]))
    assert {name: array.shape for name, array in weights.items()} == expected_shapes(config)
    attentions = attentions_for(Device("CPU"), implementation, config)
    graphs = Graphs(config, weights, MAX_LENGTH, attentions, KVSlots(config, 1, MAX_LENGTH, attentions.text))
    del weights

    grid = tuple(spec["image_grid_thw"][0])
    pixels = random_weights.tensor("pixel_values", (int(np.prod(grid)), config.vision.patch_dim), spec["seed"])
    features = graphs.vision(Patches(pixels, grid))
    np.testing.assert_allclose(features, golden[f"{size}/vision"], atol=1e-3)

    ids = np.asarray(spec["input_ids"], np.int32)
    positions = mrope_positions(ids, [grid], config.image_token_id, config.vision.spatial_merge_size)
    np.testing.assert_array_equal(positions.ids, golden[f"{size}/position_ids"])
    steps = [graphs.prefill(ids, [features], positions.ids)]
    for new in range(3):
        live = len(ids) + new
        steps.append(graphs.decode(steps[-1].token_id, live + positions.delta, live))
    logits = np.concatenate([step.logits.asnumpy() for step in steps])
    np.testing.assert_allclose(logits, golden[f"{size}/step_logits"], atol=1e-3)
    assert [step.token_id for step in steps] == spec["token_ids"]
