"""Qwen2.5-VL with random weights against transformers (tests/reference/record_windows.py): a tiny shape, and layers of 3B
and 7B.

Images have whole windows, and windows that are cut on the right, at the bottom and on both sides.
"""

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mindnlp_ocr.backends.select import Implementation, operators_for
from mindnlp_ocr.engine.graphs import Graphs, NewToken, PromptPart
from mindnlp_ocr.modeling.rope import mrope_positions
from mindnlp_ocr.modeling.windows import most_windows, windows_of
from mindnlp_ocr.ops import native
from mindnlp_ocr.ops.device import Device
from mindnlp_ocr.ops.operators import Operators
from mindnlp_ocr.processing.images import Patches
from tests.conftest import GOLDENS
from tests.modeling.random_models import random_graphs
from tests.reference import random_weights

MODELS: list[dict[str, Any]] = json.loads((GOLDENS / "windows.json").read_text(encoding="utf-8"))["models"]
TINY = MODELS[0]
STRIP = {  # of five windows, for other tests
    **TINY,
    "input_ids": [17, 401, *[TINY["config"]["image_token_id"]] * 20, 9, 1200],
    "image_grid_thw": [[1, 2, 40]],
}
ROWS = 8  # every so many features are recorded
MAX_LENGTH = 512
# Each implementation runs at the tiny shape and at a published one, and every shape runs on our operators.
RUNS: list[tuple[str, Implementation, bool]] = [
    ("tiny", "eager", False),
    ("tiny", "eager", True),
    ("tiny", "flash", True),
    ("3b", "eager", True),
    ("3b", "flash", True),
    ("7b", "eager", False),
    ("7b", "flash", True),
]
with_library = pytest.mark.skipif(not native.available()[0], reason=native.available()[1])
every_model = pytest.mark.parametrize("spec", MODELS, ids=[spec["name"] for spec in MODELS])


def graphs_of(spec: dict[str, Any], implementation: Implementation, operators: Operators) -> Graphs:
    return random_graphs(spec, MAX_LENGTH, implementation, operators)


def images_of(spec: dict[str, Any]) -> list[Patches]:
    grids = [tuple(grid) for grid in spec["image_grid_thw"]]
    ends = np.cumsum([0, *(np.prod(grid) for grid in grids)])
    pixels = random_weights.tensor("pixel_values", (int(ends[-1]), 3 * 2 * 14 * 14), spec["seed"])
    return [Patches(pixels[ends[i] : ends[i + 1]], grid) for i, grid in enumerate(grids)]


@pytest.fixture(scope="module")
def golden() -> Any:
    return np.load(GOLDENS / "windows.npz", allow_pickle=False)


@every_model
def test_the_order_and_the_sizes_of_windows_are_the_references(spec: dict[str, Any], golden: Any) -> None:
    windows = [windows_of(tuple(grid), 2, 4) for grid in spec["image_grid_thw"]]
    starts = np.cumsum([0, *(len(each.order) for each in windows)])
    order = np.concatenate([each.order + start for each, start in zip(windows, starts, strict=False)])
    np.testing.assert_array_equal(order, golden[f"{spec['name']}/window_index"])
    ends = 4 * np.cumsum([0, *np.concatenate([each.sizes for each in windows])])
    np.testing.assert_array_equal(ends, spec["window_ends"])


def test_no_image_has_more_windows_than_there_is_room_for() -> None:
    for side in (1, 2, 4, 5):
        for height in range(1, 25):
            for width in range(1, 25):
                windows = windows_of((1, 2 * height, 2 * width), 2, side)
                assert sorted(windows.order) == list(range(height * width))
                assert windows.sizes.sum() == height * width
                assert windows.sizes.min() > 0
                assert len(windows.sizes) <= most_windows(height * width, 1, side)
    assert len(windows_of((1, 2, 42), 2, 4).sizes) == most_windows(21, 1, 4)  # a strip of 5 windows and a rest


@pytest.mark.parametrize(
    ("name", "implementation", "own_operators"), [pytest.param(*run, marks=[with_library] * run[2]) for run in RUNS]
)
def test_features_logits_and_tokens_match(
    name: str, implementation: Implementation, own_operators: bool, golden: Any
) -> None:
    spec = next(model for model in MODELS if model["name"] == name)
    images = images_of(spec)
    graphs = graphs_of(spec, implementation, operators_for(Device("CPU")) if own_operators else Operators())
    features = [graphs.vision([image])[0] for image in images]
    np.testing.assert_allclose(np.concatenate(features)[::ROWS], golden[f"{name}/vision"], atol=1e-3)
    together = graphs.vision(images) if len(images) > 1 else features
    for alone, packed in zip(features, together, strict=True):
        np.testing.assert_allclose(packed, alone, atol=1e-4)
        assert implementation == "eager" or packed.tobytes() == alone.tobytes()

    ids: NDArray[np.int32] = np.asarray(spec["input_ids"], np.int32)
    positions = mrope_positions(ids, [image.grid_thw for image in images], spec["config"]["image_token_id"], 2)
    np.testing.assert_array_equal(positions.ids, golden[f"{name}/position_ids"])
    assert positions.delta == spec["rope_delta"]
    steps = graphs.prefill(PromptPart(ids, features, positions.ids))
    for new in range(3):
        live = len(ids) + new
        steps += graphs.decode([NewToken(steps[-1].token_id, live + positions.delta, 0, live)])
    np.testing.assert_allclose(np.stack([step.numpy() for step in steps]), golden[f"{name}/step_logits"], atol=1e-3)
    assert [step.token_id for step in steps] == spec["token_ids"]


@with_library
def test_a_change_of_the_order_or_of_the_windows_is_seen(golden: Any) -> None:
    """The tolerance is narrow enough: without windows in one block, features differ by a hundred times as much."""
    vision = {**TINY["config"]["vision_config"], "fullatt_block_indexes": [0, 1, 3]}
    spec = {**TINY, "config": {**TINY["config"], "vision_config": vision}}
    features = np.concatenate(graphs_of(spec, "flash", operators_for(Device("CPU"))).vision(images_of(spec)))
    assert np.abs(features[::ROWS] - golden["tiny/vision"]).max() > 0.1


@with_library
def test_graphs_are_compiled_for_buckets_not_for_numbers_of_windows() -> None:
    graphs = graphs_of(TINY, "flash", operators_for(Device("CPU")))
    for height, width in ((2, 4), (8, 8), (2, 32), (6, 10), (4, 16), (16, 4)):
        graphs.vision([Patches(np.zeros((height * width, 1176), np.float32), (1, height, width))])
    assert graphs.compilations == 1
