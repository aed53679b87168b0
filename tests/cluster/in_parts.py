"""Run by msrun, on every worker: one model in two parts. Rank r writes what it saw to FILE.r.

First the command line on the built-in checkpoint, then random weights at the layer shapes of Qwen2-VL-2B, and a tiny
Qwen2.5-VL whose vision tower has windows.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mindnlp_ocr.backends.select import backends_for, operators_for
from mindnlp_ocr.cache.keys import PrefixKey
from mindnlp_ocr.cache.slots import KVSlots
from mindnlp_ocr.cli import main
from mindnlp_ocr.config import ModelConfig
from mindnlp_ocr.engine.graphs import Graphs, NewToken, PromptPart
from mindnlp_ocr.errors import PageError
from mindnlp_ocr.ops.device import Device
from mindnlp_ocr.parallel.launch import Launch
from mindnlp_ocr.parallel.ranks import Ranks
from mindnlp_ocr.weights.quantize import WeightDtype
from tests.modeling import test_published_shapes as shapes
from tests.modeling import test_windows as windows
from tests.modeling.random_models import drawn

MODELS = [shapes.MODELS[0], windows.STRIP]
RUNS: list[tuple[int, WeightDtype]] = [(0, "fp32"), (0, "int8"), (1, "fp32")]  # numbers in MODELS
MAX_LENGTH = shapes.MAX_LENGTH


def read(number: int, dtype: WeightDtype, ranks: Ranks, given: Sequence[int] = ()) -> dict[str, Any]:
    """The tokens and the logits of the prompt, and what a rank holds. If tokens are given, they are decoded instead."""
    spec = MODELS[number]
    device, whole = Device("CPU"), ModelConfig.from_dict(spec["config"])
    config = ranks.split.config(whole)
    ranks.split.check_dtype(whole, dtype)
    backends = backends_for(device, "flash", config, fused=ranks.count == 1)
    kv = KVSlots(config, 1, MAX_LENGTH, backends.text)
    weights = ranks.split.weights(drawn(spec))
    graphs = Graphs(config, weights, MAX_LENGTH, operators_for(device, dtype), backends, kv, ranks=ranks)
    image, ids, positions = shapes.inputs_of(spec)
    steps = graphs.prefill(PromptPart(ids, [graphs.vision([image])[0]], positions.ids))
    for new in range(8):
        live = len(ids) + new
        token_id = given[new] if given else steps[-1].token_id
        steps += graphs.decode([NewToken(token_id, live + positions.delta, 0, live)])
    return {
        "token_ids": [step.token_id for step in steps],
        "logits": np.stack([step.numpy() for step in steps]).tolist(),
        "kv_heads": kv.shape[1],
        "layer_bytes": sum(int(x.nbytes) for x in graphs.parameters() if x.name.startswith("model.layers.0.")),
    }


def agreements(ranks: Ranks) -> list[str]:
    """Return the outcomes of prompts that are equal, that rank 1 cannot read, and that differ."""
    outcomes = []
    for case in ("alike", "unread", "different"):
        try:
            with ranks.agreement() as read:
                if case == "unread" and ranks.rank == 1:
                    raise PageError("damaged")
                read.append(PrefixKey("", np.array([1, ranks.rank if case == "different" else 2], np.int32)))
            outcomes.append("")
        except PageError as error:
            outcomes.append(str(error))
    return outcomes


if __name__ == "__main__":
    output, *arguments = sys.argv[1:]
    status = main([*arguments, "--tensor-parallel", "2", "--format", "json", "--output", f"{output}.json"])
    launch = Launch.from_environment()
    if launch is None or launch.scheduler:
        sys.exit(status)
    ranks = Ranks(launch.rank or 0, 2)
    runs = [read(number, dtype, ranks) for number, dtype in RUNS]
    seen = {"status": status, "runs": runs, "agreements": agreements(ranks), "least": ranks.least(5 + ranks.rank)}
    Path(f"{output}.{ranks.rank}").write_text(json.dumps(seen), encoding="utf-8")
