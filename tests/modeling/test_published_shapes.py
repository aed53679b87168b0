"""Random weights at the true layer shapes of Qwen2-VL-2B and -7B (few layers, small vocabulary) against transformers."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mindnlp_ocr.backends.select import Implementation, operators_for
from mindnlp_ocr.config import ModelConfig
from mindnlp_ocr.engine.graphs import Graphs, NewToken, PromptPart, Step
from mindnlp_ocr.modeling.rope import MRopePositions, mrope_positions
from mindnlp_ocr.ops import native
from mindnlp_ocr.ops.device import Device
from mindnlp_ocr.ops.operators import Operators
from mindnlp_ocr.processing.images import Patches
from tests.conftest import GOLDENS
from tests.modeling.random_models import random_graphs
from tests.reference import random_weights

MODELS: list[dict[str, Any]] = json.loads((GOLDENS / "shapes.json").read_text(encoding="utf-8"))["models"]
MAX_LENGTH = 64
# Every shape runs on our operators, and each other implementation at one shape. Eager at the 7B shape is in test_windows.py.
RUNS: list[tuple[str, Implementation, bool]] = [
    ("2b", "flash", True),
    ("2b", "eager", True),
    ("7b", "flash", True),
    ("mineru2.5-1.2b", "flash", True),
    ("mineru2.5-1.2b", "eager", False),
]
with_library = pytest.mark.skipif(not native.available()[0], reason=native.available()[1])


def graphs_of(spec: dict[str, Any], implementation: Implementation, operators: Operators, slots: int = 1) -> Graphs:
    return random_graphs(spec, MAX_LENGTH, implementation, operators, slots)


def inputs_of(spec: dict[str, Any]) -> tuple[Patches, NDArray[np.int32], MRopePositions]:
    """The image, the prompt and its positions."""
    config, grid = ModelConfig.from_dict(spec["config"]), tuple(spec["image_grid_thw"][0])
    pixels = random_weights.tensor("pixel_values", (int(np.prod(grid)), config.vision.patch_dim), spec["seed"])
    ids = np.asarray(spec["input_ids"], np.int32)
    return Patches(pixels, grid), ids, mrope_positions(ids, [grid], config.image_token_id, config.vision.spatial_merge_size)


@with_library
def test_a_prompt_in_two_pieces_gives_the_logits_of_the_whole_to_the_bit() -> None:
    spec = MODELS[0]
    graphs = graphs_of(spec, "flash", operators_for(Device("CPU")), slots=3)
    image, ids, positions = inputs_of(spec)
    features = graphs.vision([image])[0]
    is_image = ids == spec["config"]["image_token_id"]

    def answers(slot: int, splits: list[int], beside: int | None = None) -> list[bytes]:
        """Logits of the prompt and of one token more, alone or beside that token in another slot."""
        for first, last in pairwise([0, *splits, len(ids)]):
            taken = features[is_image[:first].sum() : is_image[:last].sum()]
            step = graphs.prefill(PromptPart(ids[first:last], [taken], positions.ids[:, first:last], slot, first))[0]
        new = [
            NewToken(step.token_id, len(ids) + positions.delta, where, len(ids))
            for where in (beside, slot)
            if where is not None
        ]
        steps: list[Step] = [step, graphs.decode(new)[-1]]
        return [step.numpy().tobytes() for step in steps]

    whole, image_start = answers(0, []), int(np.argmax(is_image))
    for split in (1, image_start + 2, len(ids) - 1):
        assert answers(2, [split], beside=0) == whole
    assert answers(1, list(range(1, len(ids), 3))) == whole


@pytest.mark.parametrize(
    ("size", "implementation", "own_operators"), [pytest.param(*run, marks=[with_library] * run[2]) for run in RUNS]
)
def test_vision_features_logits_and_tokens_match(size: str, implementation: Implementation, own_operators: bool) -> None:
    spec = next(model for model in MODELS if model["name"] == size)
    golden = np.load(GOLDENS / "shapes.npz", allow_pickle=False)
    graphs = graphs_of(spec, implementation, operators_for(Device("CPU")) if own_operators else Operators())
    image, ids, positions = inputs_of(spec)
    features = graphs.vision([image])[0]
    np.testing.assert_allclose(features, golden[f"{size}/vision"], atol=1e-3)

    np.testing.assert_array_equal(positions.ids, golden[f"{size}/position_ids"])
    steps = graphs.prefill(PromptPart(ids, [features], positions.ids))
    for new in range(3):
        live = len(ids) + new
        steps += graphs.decode([NewToken(steps[-1].token_id, live + positions.delta, 0, live)])
    np.testing.assert_allclose(np.stack([step.numpy() for step in steps]), golden[f"{size}/step_logits"], atol=1e-3)
    assert [step.token_id for step in steps] == spec["token_ids"]
