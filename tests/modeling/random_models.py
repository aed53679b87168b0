"""Graphs over random weights at the shapes of a recorded model."""

import json
from functools import lru_cache
from typing import Any

import numpy as np

from mindnlp_ocr.backends.select import Implementation, backends_for
from mindnlp_ocr.cache.slots import KVSlots
from mindnlp_ocr.config import ModelConfig
from mindnlp_ocr.engine.graphs import Graphs
from mindnlp_ocr.ops.device import Device
from mindnlp_ocr.ops.operators import Operators
from mindnlp_ocr.weights.names import expected_shapes
from tests.reference import random_weights


def drawn(spec: dict[str, Any]) -> dict[str, np.ndarray]:
    """All weights of a model. The last ones are kept, because they take longer to draw than to run."""
    return _drawn(json.dumps(spec["config"]), spec["seed"])


@lru_cache(maxsize=1)
def _drawn(config: str, seed: int) -> dict[str, np.ndarray]:
    weights = dict(random_weights.state_dict(json.loads(config), seed))
    for array in weights.values():
        array.flags.writeable = False
    return weights


def random_graphs(
    spec: dict[str, Any], max_length: int, implementation: Implementation, operators: Operators, slots: int = 1
) -> Graphs:
    """Graphs on this machine's CPU over the weights of a model."""
    config, weights = ModelConfig.from_dict(spec["config"]), drawn(spec)
    assert {name: array.shape for name, array in weights.items()} == expected_shapes(config)
    backends = backends_for(Device("CPU"), implementation, config)
    kv = KVSlots(config, slots, max_length, backends.text)
    return Graphs(config, weights, max_length, operators, backends, kv)
