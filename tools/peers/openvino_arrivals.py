"""Measure OpenVINO GenAI's continuous batching with requests that arrive at given times.

The argument is the FOLDER of an export. Standard input is [[seconds, image], ...] as JSON, and standard output the times in
milliseconds as JSON.
"""

import itertools
import json
import sys
import time
from typing import Any

import numpy as np
import openvino as ov  # type: ignore[import-not-found, unused-ignore]
import openvino_genai as genai  # type: ignore[import-not-found, unused-ignore]
from common import prompt
from PIL import Image


def main() -> None:
    scheduler = genai.SchedulerConfig()
    scheduler.enable_prefix_caching = False
    scheduler.max_num_seqs = 32
    scheduler.cache_size = 2
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    pipeline = genai.ContinuousBatchingPipeline(sys.argv[1], scheduler, "CPU", options)
    config = pipeline.get_config()
    config.do_sample, config.max_new_tokens, config.apply_chat_template = False, 128, False
    arrivals = json.load(sys.stdin)
    images = [ov.Tensor(np.array(Image.open(path).convert("RGB"))[None]) for _, path in arrivals]
    text = prompt("<|image_pad|>")
    warm = pipeline.add_request(10**6, text, [images[0]], config)
    while pipeline.has_non_finished_requests():
        pipeline.step()
    warm.read_all()
    start = time.perf_counter()
    handles: dict[int, Any] = {}
    moments: dict[int, list[float]] = {}
    came: dict[int, float] = {}
    tokens, pending = 0, list(range(len(arrivals)))
    while pending or pipeline.has_non_finished_requests():
        while pending and start + arrivals[pending[0]][0] <= time.perf_counter():
            number = pending.pop(0)
            came[number] = start + arrivals[number][0]
            handles[number] = pipeline.add_request(number, text, [images[number]], config)
        if not pipeline.has_non_finished_requests():
            time.sleep(max(0.0, start + arrivals[pending[0]][0] - time.perf_counter()))
            continue
        pipeline.step()
        for number, handle in handles.items():
            if handle.can_read():
                for output in handle.read().values():
                    tokens += len(output.generated_ids)
                    moments.setdefault(number, []).append(time.perf_counter())
    seconds = time.perf_counter() - start
    print(
        json.dumps(
            {
                "first": [(moments[number][0] - came[number]) * 1e3 for number in came],
                "between": [(b - a) * 1e3 for times in moments.values() for a, b in itertools.pairwise(times)],
                "rate": tokens / seconds,
            }
        )
    )


if __name__ == "__main__":
    main()
