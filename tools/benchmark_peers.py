#!/usr/bin/env python3
"""Our page latency beside its peers on the same pages and checkpoint, in float32: transformers + PyTorch, OpenVINO GenAI
and mindnlp.

Processes, one an engine, take turns page by page, so that a machine whose speed drifts is fair to all; medians are
compared. Each peer runs in an environment of its own (pip 25.1 or later):

    python -m venv .venv-reference && .venv-reference/bin/pip install --upgrade pip
    .venv-reference/bin/pip install --group reference
    uv run tools/benchmark_peers.py --peer-python .venv-reference/bin/python examples/*.png

mindnlp runs in our own environment, with its own attention or with ours:

    uv run tools/benchmark_peers.py --mindnlp eager --mindnlp mindnlp_ocr_flash tests/pages/line_392x28.png

OpenVINO reads an export of the checkpoint. Only the export needs torch and torchvision; both must come from one index:

    python -m venv .venv-openvino && .venv-openvino/bin/pip install --upgrade pip
    .venv-openvino/bin/pip install --group openvino
    .venv-openvino/bin/optimum-cli export openvino --model mindnlp_ocr/assets/qwen2vl-ocr-tiny \\
        --task image-text-to-text --weight-format fp32 build/openvino/fp32      # or int8, to build/openvino/int8
    uv run tools/benchmark_peers.py --openvino-python .venv-openvino/bin/python --openvino-model build/openvino/fp32

An export is computed in float32 (f32) unless its folder is followed by ":bf16", or by ":auto" for what OpenVINO picks by
itself: bfloat16 where the processor has it, fewer bits for cached keys and values, int8 products for int8 weights.
OpenVINO resizes an image with a bicubic filter of its own: where a side is no multiple of 28, its tokens may not be ours.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = ROOT / "mindnlp_ocr" / "assets" / "qwen2vl-ocr-tiny"
PROMPT = "Extract all text from this image."
FIGURES = ("page", "first_token", "per_token")
PRECISIONS = ("f32", "bf16", "auto")


def prompt(image: str) -> str:
    """The whole prompt as text, with that text between the marks of an image."""
    return (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"<|vision_start|>{image}<|vision_end|>{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
    )


def ours(dtype: str | None = None) -> Any:
    """A reader of pages with this engine: path -> figures in milliseconds, and the tokens."""
    from mindnlp_ocr import Qwen2VLModel

    options: dict[str, Any] = {"dtype": dtype} if dtype else {}
    model = Qwen2VLModel(CHECKPOINT, **options)

    def read(path: str) -> dict[str, Any]:
        model.clear_cache()  # else every page but the first would be known
        content = [{"type": "image", "image": path}, {"type": "text", "text": PROMPT}]
        reading = model.generate([{"role": "user", "content": content}])
        times = reading.timings_ms
        first = times["preprocess"] + times["vision"] + times["prefill"]
        figures = _figures(times["total"], first, reading.prompt_tokens, reading.token_ids)
        return figures | {"compilations": model.get_model_info()["compilations"]}

    return read


def transformers_torch() -> Any:
    """The same with transformers."""
    import torch  # type: ignore[import-not-found, unused-ignore]
    from transformers import Qwen2VLForConditionalGeneration

    return _transformers(Qwen2VLForConditionalGeneration.from_pretrained(CHECKPOINT, dtype=torch.float32).eval())


def mindnlp(attention: str) -> Any:
    """The same with mindnlp, which runs the code of transformers on MindSpore."""
    from mindnlp_ocr.interop import load_mindnlp, register_attention

    if attention == "mindnlp_ocr_flash":
        register_attention(attention)
    model = load_mindnlp(CHECKPOINT, attention)
    import mindspore as ms

    ms.runtime.launch_blocking()  # three times as fast as its default
    return _transformers(model)


def _transformers(model: Any) -> Any:
    """The first token is timed by a streamer, as it leaves ``generate``."""
    import torch
    from PIL import Image
    from tokenizers import Tokenizer
    from transformers import Qwen2VLImageProcessor

    tokenizer, images = (
        Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json")),
        Qwen2VLImageProcessor.from_pretrained(CHECKPOINT),
    )

    class Clock:
        """A streamer: the prompt comes first, then each token."""

        def __init__(self) -> None:
            self.calls: list[float] = []

        def put(self, _: Any) -> None:
            self.calls.append(time.perf_counter())

        def end(self) -> None: ...

    def read(path: str) -> dict[str, Any]:
        start = time.perf_counter()
        batch = images(images=[Image.open(path).convert("RGB")], return_tensors="pt")
        pads = "<|image_pad|>" * (int(batch["image_grid_thw"].prod()) // 4)
        ids = torch.tensor([tokenizer.encode(prompt(pads)).ids])
        clock = Clock()
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                **batch,
                do_sample=False,
                max_new_tokens=1024,
                streamer=clock,
            )
        tokens = output[0, ids.shape[1] :].tolist()
        tokenizer.decode(tokens)
        page, first = (time.perf_counter() - start) * 1e3, (clock.calls[1] - start) * 1e3
        return _figures(page, first, ids.shape[1], tokens)

    return read


def openvino_genai(folder: str, precision: str) -> Any:
    """The same with an export that OpenVINO GenAI runs; its streamer is given token ids, so no text is tokenized again."""
    import numpy as np
    import openvino as ov  # type: ignore[import-not-found, unused-ignore]
    import openvino_genai as genai  # type: ignore[import-not-found, unused-ignore]
    from PIL import Image

    # Its default but for prefix caching, with which every run of a page but the first would find its prompt prefilled.
    scheduler = genai.SchedulerConfig()
    scheduler.enable_prefix_caching = False
    scheduler.max_num_batched_tokens = sys.maxsize
    options: dict[str, Any] = {"scheduler_config": scheduler}
    if precision != "auto":  # the hint alone leaves the cache of keys and values, and activations of int8 weights, in 8 bits
        options |= {"INFERENCE_PRECISION_HINT": precision, "KV_CACHE_PRECISION": precision}
        options["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
    pipeline = genai.VLMPipeline(folder, "CPU", **options)
    config = pipeline.get_generation_config()  # with the end tokens
    config.do_sample, config.max_new_tokens, config.apply_chat_template = False, 1024, False

    class Clock(genai.StreamerBase):
        """A streamer that keeps the tokens and when the first came."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.tokens = 0.0, list[int]()

        def write(self, tokens: int | list[int]) -> Any:
            self.first = self.first or time.perf_counter()
            self.tokens += [tokens] if isinstance(tokens, int) else tokens
            return genai.StreamingStatus.RUNNING

        def end(self) -> None: ...

    def read(path: str) -> dict[str, Any]:
        start = time.perf_counter()
        pixels = np.array(Image.open(path).convert("RGB"))[None]
        clock = Clock()
        # One pad stands for the image: the pipeline repeats it.
        result = pipeline.generate(
            prompt("<|image_pad|>"), images=[ov.Tensor(pixels)], generation_config=config, streamer=clock
        )
        page, first = (time.perf_counter() - start) * 1e3, (clock.first - start) * 1e3
        return _figures(page, first, result.perf_metrics.get_num_input_tokens(), clock.tokens)

    return read


def _figures(page: float, first: float, prompt_tokens: int, tokens: list[int]) -> dict[str, Any]:
    per_token = (page - first) / max(1, len(tokens) - 1)
    times = {"page": page, "first_token": first, "per_token": per_token}
    return times | {"prompt_tokens": prompt_tokens, "token_ids": tokens}


def serve(engine: str, options: list[str]) -> None:
    """A worker: one path a line in, one JSON object a line out; the last line tells the peak memory."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print must not mix with the answers
    engines: dict[str, Any] = {"ours": ours, "transformers": transformers_torch, "openvino": openvino_genai}
    engines["mindnlp"] = mindnlp
    read = engines[engine](*options)
    for line in sys.stdin:
        print(json.dumps(read(line.strip())), file=answers, flush=True)
    peak = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    print(json.dumps({"peak_mb": int(peak.split()[1]) / 1024}), file=answers, flush=True)


class Worker:
    """A process that reads pages when asked."""

    def __init__(self, python: str, engine: str, *options: str) -> None:
        command = [python, __file__, "--serve", engine, *options]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def read(self, path: str) -> dict[str, Any]:
        assert self._process.stdin
        print(path, file=self._process.stdin, flush=True)
        return self._answer()

    def peak_mb(self) -> float:
        assert self._process.stdin
        self._process.stdin.close()
        return float(self._answer()["peak_mb"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"error: {self._process.args!r} stopped: run it by hand to see why")
        answer: dict[str, Any] = json.loads(line)
        return answer


def export(text: str) -> tuple[str, str]:
    """``FOLDER[:PRECISION]`` as folder and precision."""
    folder, _, precision = text.rpartition(":")
    folder, precision = (folder, precision) if folder else (text, PRECISIONS[0])
    if precision not in PRECISIONS:
        raise argparse.ArgumentTypeError(f"{precision!r} is not one of {', '.join(PRECISIONS)}")
    if not (Path(folder) / "openvino_language_model.xml").is_file():
        raise argparse.ArgumentTypeError(f"{folder} is no export: see the head of --help for how to make one")
    return folder, precision


def compare(image: str, workers: dict[str, Worker], count: int) -> dict[str, Any]:
    """Medians of one page by engine, and of each peer whether its tokens are ours, and its time as a multiple of ours."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for _ in range(1 + count):
        for name, worker in workers.items():
            runs[name].append(worker.read(image))
    prompts = {name: run[0]["prompt_tokens"] for name, run in runs.items()}
    if len(set(prompts.values())) > 1:
        raise SystemExit(f"error: the prompts of {image} differ in tokens, so times cannot be compared: {prompts}")
    tokens = runs["ours"][0]["token_ids"]
    peers = [name for name in workers if name != "ours"]
    row: dict[str, Any] = {"image": Path(image).name, "tokens": len(tokens), "prompt_tokens": prompts["ours"]}
    row["same_tokens"] = {name: runs[name][0]["token_ids"] == tokens for name in peers}
    for figure in FIGURES:
        medians = {name: statistics.median(run[figure] for run in runs[name][1:]) for name in workers}
        row[figure] = {"ms": medians, "ratio": {name: medians[name] / medians["ours"] for name in peers}}
    return row


def show(row: dict[str, Any]) -> None:
    same = (f"{name} {'the same' if equal else 'NOT THE SAME'}" for name, equal in row["same_tokens"].items())
    print(f"{row['image']}: {row['tokens']} tokens, {', '.join(same)}")
    for figure in FIGURES:
        ms, ratio = row[figure]["ms"], row[figure]["ratio"]
        peers = "".join(f"  {name} {ms[name]:8.1f} ms  ratio {ratio[name]:.2f}" for name in ratio)
        print(f"  {figure:12} ours {ms['ours']:8.1f} ms{peers}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", default=[str(p) for p in sorted((ROOT / "examples").glob("*.png"))])
    parser.add_argument("--peer-python", help="the interpreter of an environment with torch and transformers")
    parser.add_argument("--openvino-python", help="the interpreter of an environment with openvino-genai")
    parser.add_argument(
        "--openvino-model",
        metavar="FOLDER[:PRECISION]",
        type=export,
        action="append",
        default=[],
        help=f"an export that OpenVINO reads, and how it computes: {', '.join(PRECISIONS)} (default: f32); may be repeated",
    )
    parser.add_argument(
        "--mindnlp",
        choices=("eager", "mindnlp_ocr_flash"),
        action="append",
        default=[],
        help="mindnlp's own Qwen2-VL, with its own attention or ours; may be repeated",
    )
    parser.add_argument("--dtype", help="the dtype of our weights (default: what Qwen2VLModel takes)")
    parser.add_argument("--runs", type=int, default=5, help="counted runs a page, after one to warm up (default: 5)")
    parser.add_argument("--output", help="write the figures as JSON there")
    parser.add_argument("--serve", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(arguments.serve[0], arguments.serve[1:])
    if bool(arguments.openvino_python) != bool(arguments.openvino_model):
        parser.error("--openvino-python and --openvino-model go together: see the head of --help for how to make both")
    if not arguments.peer_python and not arguments.openvino_python and not arguments.mindnlp:
        parser.error("--peer-python, --openvino-python or --mindnlp is missing: see the head of --help")
    commands: dict[str, list[str]] = {"ours": [sys.executable, "ours", *([arguments.dtype] if arguments.dtype else [])]}
    if arguments.peer_python:
        commands["transformers"] = [arguments.peer_python, "transformers"]
    for attention in arguments.mindnlp:
        commands[f"mindnlp {attention}"] = [sys.executable, "mindnlp", attention]
    for folder, precision in arguments.openvino_model:
        name = f"openvino {Path(folder).name}:{precision}"
        if name in commands:
            parser.error(f"two exports are named {name}")
        commands[name] = [arguments.openvino_python, "openvino", folder, precision]
    workers = {name: Worker(*command) for name, command in commands.items()}
    rows = []
    for image in arguments.images:
        rows.append(compare(image, workers, arguments.runs))
        show(rows[-1])
    report: dict[str, Any] = {"machine": platform.platform(), "cores": os.cpu_count(), "dtype": arguments.dtype}
    report |= {"runs": arguments.runs, "pages": rows}
    report["peak_mb"] = {name: worker.peak_mb() for name, worker in workers.items()}
    print("peak memory: " + ", ".join(f"{name} {mb:.0f} MB" for name, mb in report["peak_mb"].items()))
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return None


if __name__ == "__main__":
    main()
