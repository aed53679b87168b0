"""A vision tower with windows over AscendBackend and the emulated operators, compiled and exported, beside transformers.

Run by tests/backends/test_ascend.py in a process of its own, as checks.py is.
"""

from pathlib import Path
from typing import Any

import numpy as np

from mindnlp_ocr.backends.select import attention_dtype_for, backends_for, operators_for
from mindnlp_ocr.cache.config import CacheConfig
from mindnlp_ocr.cache.slots import KVSlots
from mindnlp_ocr.config import ModelConfig
from mindnlp_ocr.engine.graphs import Graphs, NewToken, PromptPart
from mindnlp_ocr.export.graphs import ExportedGraphs
from mindnlp_ocr.export.manifest import Manifest
from mindnlp_ocr.modeling.rope import mrope_positions
from mindnlp_ocr.models.export import export_model
from mindnlp_ocr.models.limits import Limits
from mindnlp_ocr.ops.device import Device
from mindnlp_ocr.weights.folder import FolderWeights
from tests.conftest import GOLDENS
from tests.modeling.test_windows import MAX_LENGTH, ROWS, TINY, images_of
from tests.reference import random_weights
from tests.windows import write_checkpoint

NPU = Device("Ascend")


def graphs_of(config: ModelConfig, weights: Any) -> Graphs:
    backends = backends_for(NPU, "flash", config, attention_dtype_for(NPU, "flash", "fp16"))
    kv = KVSlots(config, 1, MAX_LENGTH, backends.text, "fp16")
    return Graphs(config, weights, MAX_LENGTH, operators_for(NPU, "fp16"), backends, kv)


def test_sixteen_bit_attention_in_windows_gives_the_references_features_and_tokens() -> None:
    """With weights of 16 bits as well; with those of 32: pages.py."""
    config = ModelConfig.from_dict(TINY["config"])
    graphs, images = graphs_of(config, dict(random_weights.state_dict(TINY["config"], TINY["seed"]))), images_of(TINY)
    golden = np.load(GOLDENS / "windows.npz", allow_pickle=False)
    features = [graphs.vision([image])[0] for image in images]
    np.testing.assert_allclose(np.concatenate(features)[::ROWS], golden["tiny/vision"], atol=0.02)
    ids = np.asarray(TINY["input_ids"], np.int32)
    positions = mrope_positions(ids, [image.grid_thw for image in images], config.image_token_id, 2)
    steps = graphs.prefill(PromptPart(ids, features, positions.ids))
    for new in range(3):
        live = len(ids) + new
        steps += graphs.decode([NewToken(steps[-1].token_id, live + positions.delta, 0, live)])
    assert [step.token_id for step in steps] == TINY["token_ids"]


def test_an_exported_tower_gives_the_features_of_the_compiled_one(tmp_path: Path) -> None:
    folder, target = write_checkpoint(tmp_path / "tiny"), tmp_path / "exported"
    limits = Limits(max_length=64, max_new_tokens=32)  # one prompt graph: only the tower is run
    export_model(folder, target, "Ascend", None, CacheConfig(slots=1), limits, [64, 512], attn="flash", dtype="fp16")
    manifest, config = Manifest.read(target), ModelConfig.from_folder(folder)
    backends = backends_for(NPU, "flash", config, manifest.kv_dtype)
    kv = KVSlots(config, 1, manifest.max_length, backends.text, manifest.kv_dtype)
    exported = ExportedGraphs(target, manifest, config, backends, kv)
    compiled = graphs_of(config, FolderWeights(folder, config))
    for image in images_of(TINY)[:2]:  # in a window, and in many that are cut
        np.testing.assert_allclose(exported.vision([image])[0], compiled.vision([image])[0], atol=1e-3)
