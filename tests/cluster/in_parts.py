"""Run by msrun, on every worker: one model in two parts. Rank 0 writes what it read to the file that is named.

First the command line on the built-in checkpoint, then random weights at the layer shapes of Qwen2-VL-2B.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mindnlp_ocr.cache.slots import KVSlots
from mindnlp_ocr.cli import main
from mindnlp_ocr.cluster.launch import Launch
from mindnlp_ocr.engine.graphs import Graphs, NewToken
from mindnlp_ocr.models.config import Qwen2VLConfig
from mindnlp_ocr.ops.device import Device
from mindnlp_ocr.ops.ranks import Ranks
from mindnlp_ocr.ops.select import attentions_for, operators_for
from mindnlp_ocr.weights.quantize import WeightDtype
from tests.modeling.test_published_shapes import MAX_LENGTH, MODELS, inputs_of
from tests.reference import random_weights

RUNS: list[tuple[int, WeightDtype]] = [(0, "fp32"), (0, "int8")]  # numbers in MODELS


def read(spec: Mapping[str, Any], dtype: WeightDtype, ranks: Ranks) -> dict[str, Any]:
    """The tokens and the logits of the prompt, and what a rank holds."""
    device, whole = Device("CPU"), Qwen2VLConfig.from_dict(spec["config"])
    config = ranks.split.config(whole)
    ranks.split.check_dtype(whole, dtype)
    attentions = attentions_for(device, "flash", config, fused=ranks.count == 1)
    kv = KVSlots(config, 1, MAX_LENGTH, attentions.text)
    weights = ranks.split.weights(dict(random_weights.state_dict(spec["config"], spec["seed"])))
    graphs = Graphs(config, weights, MAX_LENGTH, operators_for(device, dtype), attentions, kv, ranks=ranks)
    image, ids, positions = inputs_of(spec)
    steps = [graphs.prefill(ids, [graphs.vision([image])[0]], positions.ids)]
    for new in range(8):
        live = len(ids) + new
        steps += graphs.decode([NewToken(steps[-1].token_id, live + positions.delta, 0, live)])
    return {
        "token_ids": [step.token_id for step in steps],
        "logits": np.stack([step.numpy() for step in steps]).tolist(),
        "kv_heads": kv.shape[1],
        "layer_bytes": sum(int(x.nbytes) for x in graphs.parameters() if x.name.startswith("model.layers.0.")),
    }


if __name__ == "__main__":
    output, *arguments = sys.argv[1:]
    status = main([*arguments, "--tensor-parallel", "2", "--format", "json", "--output", f"{output}.json"])
    launch = Launch.from_environment()
    if launch is None or launch.scheduler:
        sys.exit(status)
    runs = [read(MODELS[number], dtype, Ranks(launch.rank or 0, 2)) for number, dtype in RUNS]
    if launch.rank == 0:
        Path(output).write_text(json.dumps({"status": status, "runs": runs}), encoding="utf-8")
