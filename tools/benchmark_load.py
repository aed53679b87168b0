#!/usr/bin/env python3
"""Measure load time and peak memory of checkpoints, each in a separate process.

uv run tools/benchmark_load.py --make /tmp/2b                    # random bf16 weights with the shapes of Qwen2-VL-2B
uv run tools/convert.py /tmp/2b /tmp/2b.npz
uv run tools/export.py --model /tmp/2b --output /tmp/2bx --max-length 1024 --slots 1 --vision-patches 1024
uv run tools/benchmark_load.py /tmp/2b /tmp/2b.npz /tmp/2bx /tmp/2b:fp32   # PATH:DTYPE loads weights in another dtype
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file
from tqdm import tqdm

from mindnlp_ocr.bench.published import CONFIGS
from mindnlp_ocr.bench.results import Results, Row

ROOT = Path(__file__).resolve().parent.parent
SHARD_BYTES = 2 << 30

CHILD = """\
import json, sys, time
sys.path.insert(0, {root!r})
import mindspore
from mindnlp_ocr.bench.machine import peak_memory_mb
from mindnlp_ocr.cache.config import CacheConfig
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
before = peak_memory_mb()
start = time.perf_counter()
model = Qwen2VLModel({path!r}, cache_config=CacheConfig(slots=1), dtype={dtype!r}, max_length=1024)
seconds = time.perf_counter() - start
held = sum(int(parameter.nbytes) for parameter in model.engine.graphs.parameters()) / 2**20
print(json.dumps([seconds, peak_memory_mb() - before, held]))
"""


def make(folder: Path, shapes_of: str) -> None:
    """Write a checkpoint of random numbers, in shards."""
    from mindnlp_ocr.config import ModelConfig
    from mindnlp_ocr.models.qwen2vl import EMBEDDED
    from mindnlp_ocr.weights.folder import INDEX
    from mindnlp_ocr.weights.names import expected_shapes

    folder.mkdir()
    raw = json.loads((EMBEDDED / "config.json").read_text(encoding="utf-8"))
    # The tokenizer is that of the built-in model, and so are the ids of the special tokens.
    published = {key: value for key, value in CONFIGS[shapes_of].items() if not key.endswith("token_id")}
    raw = {**raw, **published, "vision_config": {**raw["vision_config"], **published["vision_config"]}}
    for path in EMBEDDED.glob("*.json"):
        if path.name != INDEX:
            (folder / path.name).write_bytes(path.read_bytes())
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    noise = (np.random.default_rng(0).standard_normal(1 << 22, dtype=np.float32) * 0.02).astype(ml_dtypes.bfloat16)
    shapes = expected_shapes(ModelConfig.from_folder(folder))
    home: dict[str, str] = {}
    shard: dict[str, Any] = {}
    files = 0
    for name, shape in tqdm(shapes.items(), desc="making", disable=None):
        shard[name] = np.resize(noise, shape)
        if sum(array.nbytes for array in shard.values()) > SHARD_BYTES or name == list(shapes)[-1]:
            files += 1
            home |= dict.fromkeys(shard, f"model-{files:05}.safetensors")
            save_file(shard, folder / f"model-{files:05}.safetensors", {"format": "pt"})
            shard = {}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": home}), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="PATH[:DTYPE]", help="models to load")
    parser.add_argument("--make", type=Path, metavar="DIR", help="first write a random checkpoint to this folder")
    parser.add_argument("--shapes", choices=CONFIGS, default="2b", help="shapes of that checkpoint (default: 2b)")
    parser.add_argument("--runs", type=int, default=3, help="number of runs per model, interleaved (default: 3)")
    parser.add_argument("--output", help="write the figures to FILE as JSON")
    arguments = parser.parse_args()
    if arguments.make:
        make(arguments.make, arguments.shapes)
    figures: dict[str, list[list[float]]] = {model: [] for model in arguments.models}
    for _ in range(arguments.runs):
        for model, runs in figures.items():
            path, _, dtype = model.partition(":")
            code = CHILD.format(root=str(ROOT), path=path, dtype=dtype or "auto")
            done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, text=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
    rows: list[Row] = []
    for model, runs in figures.items():
        seconds, peak, held = (statistics.median(column) for column in zip(*runs, strict=True))
        rows.append({"model": Path(model).name, "seconds": seconds, "weights_mb": held, "beside_weights_mb": peak - held})
    results = Results.start()
    about = (
        "beside_weights_mb: peak memory in addition to MindSpore's import and the weights. It includes the KV slot, which "
        "takes 58 MB at the shapes of 2B."
    )
    results.add("load", "Loading a checkpoint", rows, about)
    if arguments.output:
        results.save(arguments.output)


if __name__ == "__main__":
    main()
