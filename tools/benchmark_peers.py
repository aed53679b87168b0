#!/usr/bin/env python3
"""Our page latency beside transformers + PyTorch on the same pages and checkpoint, in float32.

Two processes, one an engine, take turns page by page, so that a machine whose speed drifts is fair to both; medians are
compared. The peer runs in an environment of its own:

    python -m venv .venv-reference && .venv-reference/bin/pip install --group reference
    uv run tools/benchmark_peers.py --peer-python .venv-reference/bin/python examples/*.png
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


def ours() -> Any:
    """A reader of pages with this engine: path -> figures in milliseconds, and the tokens."""
    from mindnlp_ocr import Qwen2VLModel

    model = Qwen2VLModel(CHECKPOINT)

    def read(path: str) -> dict[str, Any]:
        model.clear_cache()  # else every page but the first would be known
        content = [{"type": "image", "image": path}, {"type": "text", "text": PROMPT}]
        reading = model.generate([{"role": "user", "content": content}])
        times = reading.timings_ms
        first = times["preprocess"] + times["vision"] + times["prefill"]
        return _figures(times["total"], first, reading.token_ids) | {"compilations": model.get_model_info()["compilations"]}

    return read


def transformers_torch() -> Any:
    """The same with transformers; the first token is timed by a streamer, as it leaves ``generate``."""
    import torch  # type: ignore[import-not-found, unused-ignore]
    from PIL import Image
    from tokenizers import Tokenizer
    from transformers import Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor

    model = Qwen2VLForConditionalGeneration.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()
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
        text = (
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
            f"<|vision_start|>{pads}<|vision_end|>{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
        )
        ids = torch.tensor([tokenizer.encode(text).ids])
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
        return _figures((time.perf_counter() - start) * 1e3, (clock.calls[1] - start) * 1e3, tokens)

    return read


def _figures(page: float, first: float, tokens: list[int]) -> dict[str, Any]:
    per_token = (page - first) / max(1, len(tokens) - 1)
    return {"page": page, "first_token": first, "per_token": per_token, "token_ids": tokens}


def serve(engine: str) -> None:
    """A worker: one path a line in, one JSON object a line out; the last line tells the peak memory."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print must not mix with the answers
    read = {"ours": ours, "transformers": transformers_torch}[engine]()
    for line in sys.stdin:
        print(json.dumps(read(line.strip())), file=answers, flush=True)
    peak = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    print(json.dumps({"peak_mb": int(peak.split()[1]) / 1024}), file=answers, flush=True)


class Worker:
    """A process that reads pages when asked."""

    def __init__(self, python: str, engine: str) -> None:
        command = [python, __file__, "--serve", engine]
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", default=[str(p) for p in sorted((ROOT / "examples").glob("*.png"))])
    parser.add_argument("--peer-python", help="the interpreter of an environment with torch and transformers")
    parser.add_argument("--runs", type=int, default=5, help="counted runs a page, after one to warm up (default: 5)")
    parser.add_argument("--output", help="write the figures as JSON there")
    parser.add_argument("--serve", choices=("ours", "transformers"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(arguments.serve)
    if not arguments.peer_python:
        parser.error("--peer-python is missing: see the head of --help for how to make that environment")
    workers = {"ours": Worker(sys.executable, "ours"), "transformers": Worker(arguments.peer_python, "transformers")}
    rows = []
    for image in arguments.images:
        runs: dict[str, list[dict[str, Any]]] = {name: [worker.read(image)] for name, worker in workers.items()}
        for _ in range(arguments.runs):
            for name, worker in workers.items():
                runs[name].append(worker.read(image))
        same = runs["ours"][0]["token_ids"] == runs["transformers"][0]["token_ids"]
        row: dict[str, Any] = {"image": Path(image).name, "tokens": len(runs["ours"][0]["token_ids"]), "same_tokens": same}
        for figure in FIGURES:
            medians = {name: statistics.median(run[figure] for run in runs[name][1:]) for name in workers}
            row[figure] = {**medians, "ratio": medians["transformers"] / medians["ours"]}
        rows.append(row)
        print(f"{row['image']}: {row['tokens']} tokens, {'the same' if same else 'NOT THE SAME'}")
        for figure in FIGURES:
            f = row[figure]
            print(
                f"  {figure:12} ours {f['ours']:8.1f} ms  transformers {f['transformers']:8.1f} ms  ratio {f['ratio']:.2f}"
            )
    report = {"machine": platform.platform(), "cores": os.cpu_count(), "runs": arguments.runs, "pages": rows}
    report["peak_mb"] = {name: worker.peak_mb() for name, worker in workers.items()}
    print("peak memory: " + ", ".join(f"{name} {mb:.0f} MB" for name, mb in report["peak_mb"].items()))
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return None


if __name__ == "__main__":
    main()
