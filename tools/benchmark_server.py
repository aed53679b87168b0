#!/usr/bin/env python3
"""Test the server under load, with clients that disconnect or send invalid requests, and compare it with the Python API.

uv run tools/benchmark_server.py --clients 32 --seconds 600      # load test, with a check for leaks
uv run tools/benchmark_server.py --seconds 20 --requests 100     # shorter; --requests sets the size of the comparison
uv run tools/benchmark_server.py --peer http://127.0.0.1:8300    # also compare with another server of the same model
"""

import argparse
import asyncio
import base64
import io
import json
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psutil
from PIL import Image

from mindnlp_ocr.bench.tool import positive, run_tool
from mindnlp_ocr.errors import SetupError

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("invoice.png", "letter.png", "notice_zh.png")
SIZES = ((420, 28, 24), (420, 28, 24), (420, 28, 24), (420, 84, 64), (420, 280, 128))  # width, height, maximum of tokens
QUESTION = "Extract all text from this image."
RUBBISH = (b"{", b'{"messages": 3}', b'{"messages": [{"role": "user", "content": "x"}], "tools": [1]}', b"\x00" * 100)


class Work:
    """An endless supply of requests: crops of the example pages at random places, so that few are in the cache."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._pages = [Image.open(ROOT / "examples" / name).convert("RGB") for name in PAGES]

    def next(self) -> tuple[bytes, int]:
        """Return a PNG file, and the maximum number of tokens of the answer."""
        page = self._random.choice(self._pages)
        width, height, tokens = self._random.choice(SIZES)
        left, top = self._random.randint(0, max(0, page.width - width)), self._random.randint(0, page.height - height)
        file = io.BytesIO()
        page.crop((left, top, left + width, top + height)).save(file, "PNG")
        return file.getvalue(), tokens


def body(content: bytes, tokens: int, stream: bool) -> bytes:
    url = "data:image/png;base64," + base64.b64encode(content).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": QUESTION}]
    return json.dumps({"messages": [{"role": "user", "content": parts}], "max_tokens": tokens, "stream": stream}).encode()


class Soak:
    """Clients that send requests one after another until the time is over."""

    def __init__(self, url: str, seconds: float) -> None:
        self._url, self._end = url, time.monotonic() + seconds
        self.outcomes: Counter[str] = Counter()
        self.first: list[float] = []
        self.whole: list[float] = []

    async def client(self, number: int) -> None:
        work, chance = Work(number), random.Random(number)
        async with httpx.AsyncClient(base_url=self._url, timeout=120) as http:
            while time.monotonic() < self._end:
                try:
                    await self._ask(http, work, chance)
                except httpx.HTTPError as error:
                    self.outcomes[f"error: {type(error).__name__}"] += 1

    async def _ask(self, http: httpx.AsyncClient, work: Work, chance: random.Random) -> None:
        headers = {"Content-Type": "application/json"}
        draw = chance.random()
        if draw < 0.05:
            answer = await http.post("/v1/chat/completions", content=chance.choice(RUBBISH), headers=headers)
            self.outcomes["rubbish, refused" if 400 <= answer.status_code < 500 else f"rubbish, {answer.status_code}"] += 1
            return
        content, tokens = work.next()
        start = time.perf_counter()
        sent = body(content, tokens, True)
        async with http.stream("POST", "/v1/chat/completions", content=sent, headers=headers) as answer:
            if answer.status_code == 429:
                self.outcomes["429, asked again later"] += 1
                await asyncio.sleep(float(answer.headers["Retry-After"]) * chance.random())
                return
            if answer.status_code != 200:
                self.outcomes[f"error: status {answer.status_code}"] += 1
                return
            seen = 0
            async for line in answer.aiter_lines():
                if not line.startswith("data: "):
                    continue
                seen += 1
                if seen == 2:
                    self.first.append(time.perf_counter() - start)
                    if draw > 0.95:
                        self.outcomes["hung up"] += 1
                        return
                if line == "data: [DONE]":
                    self.whole.append(time.perf_counter() - start)
                    self.outcomes["served"] += 1
                elif line.startswith('data: {"error"'):
                    self.outcomes["error: in a stream"] += 1


async def closed_loop(url: str, work: list[tuple[bytes, int]], clients: int) -> float:
    """Return the seconds that all requests take with this number of clients."""
    left = iter(work)

    async def client() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=600) as http:
            for content, tokens in left:
                sent = body(content, tokens, False)
                answer = await http.post("/v1/chat/completions", content=sent, headers={"Content-Type": "application/json"})
                answer.raise_for_status()

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - start


def in_python(model: Any, work: list[tuple[bytes, int]]) -> float:
    """Return the seconds that the same requests take without HTTP."""
    from mindnlp_ocr.models.requests import Request

    def ask(content: bytes) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [{"type": "image", "image": content}, {"type": "text", "text": QUESTION}]}]

    start = time.perf_counter()
    for _, outcome in model.generate_batch((Request(ask(c), t) for c, t in work), batch_size=model.slots):
        if isinstance(outcome, Exception):
            raise outcome
    return time.perf_counter() - start


def percentile(values: list[float], share: float) -> str:
    return f"{1e3 * statistics.quantiles(values, n=100)[round(100 * share) - 1]:.0f} ms" if len(values) > 1 else "-"


def gauge(url: str, name: str) -> float:
    for line in httpx.get(url + "/metrics").text.splitlines():
        if line.startswith(name + "{"):
            return float(line.rpartition(" ")[2])
    raise SetupError(f"{url}/metrics has no {name}: use a server of this version")


def started(options: list[str]) -> tuple[subprocess.Popen[str], str]:
    command = [
        sys.executable,
        str(ROOT / "tools" / "serve.py"),
        "--port",
        "0",
        "--log-format",
        "json",
        "--log-level",
        "info",
    ]
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    url = ""
    for line in process.stderr:
        event = json.loads(line) if line.startswith("{") else {"event": line}  # warnings of MindSpore are not JSON
        url = event.get("url", url)
        if event["event"] == "ready":
            break
    else:
        raise SetupError("the server did not start: run tools/serve.py manually to see why")
    import threading

    threading.Thread(target=lambda: [None for _ in process.stderr or ()], daemon=True).start()
    return process, url


async def soak(url: str, clients: int, seconds: float, server: psutil.Process) -> tuple[Soak, list[int]]:
    """Run the load test. Returns it, and the resident bytes of the server after each tenth of its duration."""
    run, resident = Soak(url, seconds), list[int]()

    async def watch() -> None:
        for _ in range(10):
            await asyncio.sleep(seconds / 10)
            resident.append(server.memory_info().rss)

    await asyncio.gather(watch(), *(run.client(number) for number in range(clients)))
    return run, resident


def overhead(url: str, model: Any) -> tuple[float, float]:
    """Return the median seconds of a request for one line over HTTP and in Python; both find the line in the cache."""
    content, _ = Work(7).next()
    sent, times = body(content, 4, False), []
    with httpx.Client(base_url=url) as http:
        for _ in range(30):
            start = time.perf_counter()
            http.post("/v1/chat/completions", content=sent, headers={"Content-Type": "application/json"}).raise_for_status()
            times.append(time.perf_counter() - start)
    ours = [in_python(model, [(content, 4)]) for _ in range(30)]
    return statistics.median(times[5:]), statistics.median(ours[5:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--clients", type=positive, default=32, metavar="N", help="number of concurrent clients (default: 32)"
    )
    parser.add_argument(
        "--seconds", type=positive, default=600, metavar="N", help="duration of the load test (default: 600)"
    )
    parser.add_argument(
        "--requests", type=positive, default=200, metavar="N", help="number of requests of the comparison (default: 200)"
    )
    parser.add_argument("--peer", metavar="URL", help="another OpenAI-compatible server with the same model to compare with")
    arguments = parser.parse_args()
    process, url = started([])
    try:
        server = psutil.Process(process.pid)
        asyncio.run(soak(url, arguments.clients, min(10, arguments.seconds), server))  # warm-up: fills graphs and caches
        before, held = server.memory_info().rss, _held(url)
        run, resident = asyncio.run(soak(url, arguments.clients, arguments.seconds, server))
        time.sleep(2)
        after, holds = server.memory_info().rss, _held(url)
        leaked = gauge(url, "vllm:num_requests_running") + gauge(url, "vllm:num_requests_waiting")
        print(f"{arguments.clients} clients, {arguments.seconds} s: {json.dumps(dict(run.outcomes), sort_keys=True)}")
        print(f"first token p50 {percentile(run.first, 0.5)}, p99 {percentile(run.first, 0.99)}")
        print(f"whole       p50 {percentile(run.whole, 0.5)}, p99 {percentile(run.whole, 0.99)}")
        print(f"RSS {before / 2**20:.0f} MB -> {after / 2**20:.0f} MB, slots leaked {leaked:.0f}")
        print(f"RSS after each tenth of the time, MB: {', '.join(f'{value / 2**20:.0f}' for value in resident)}")
        print(f"caches and graphs {held} -> {holds}")
        from mindnlp_ocr.models.qwen2vl import Qwen2VLModel

        model = Qwen2VLModel(cache_config=_as_the_server())
        model.warm_up(model.slots)
        by_http, by_python, by_peer = list[float](), list[float](), list[float]()
        for turn in range(5):  # different requests in each turn, so that nothing is cached
            maker = Work(1000 + turn)
            work = [maker.next() for _ in range(arguments.requests)]
            by_http.append(asyncio.run(closed_loop(url, work, arguments.clients)))
            by_python.append(in_python(model, work))
            if arguments.peer:
                by_peer.append(asyncio.run(closed_loop(arguments.peer, work, arguments.clients)))
        ratios = [python / http for python, http in zip(by_python, by_http, strict=True)]
        rates = [arguments.requests / statistics.median(seconds) for seconds in (by_http, by_python)]
        print(f"{arguments.requests} requests: HTTP {rates[0]:.1f} per second, Python {rates[1]:.1f}; ratios {ratios}")
        if by_peer:
            ratios = [peer / http for peer, http in zip(by_peer, by_http, strict=True)]
            rate = arguments.requests / statistics.median(by_peer)
            print(f"{arguments.requests} requests: {arguments.peer} {rate:.1f} per second; we are faster by {ratios}")
        one, ours = overhead(url, model)
        print(f"one line, cached, 4 tokens: HTTP {one * 1e3:.2f} ms, Python {ours * 1e3:.2f} ms")
    finally:
        process.terminate()
        process.wait(60)
    return 0


def _held(url: str) -> dict[str, float]:
    return {name: gauge(url, f"mindnlp_ocr:{name}") for name in ("kv_cache_bytes", "feature_cache_bytes", "compilations")}


def _as_the_server() -> Any:
    from mindnlp_ocr.cache.config import DEFAULT_SLOTS, CacheConfig, get_optimal_cache_config

    size = get_optimal_cache_config("cpu").max_cache_size_mb
    return CacheConfig(max_cache_size_mb=size, most_slots=2 * DEFAULT_SLOTS)


if __name__ == "__main__":
    run_tool(main)
