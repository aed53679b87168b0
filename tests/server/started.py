"""A server on loopback, started for a test."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx
import uvicorn

from mindnlp_ocr.server.app import Server
from mindnlp_ocr.server.config import ServerConfig


class Started(NamedTuple):
    url: str
    server: Server
    model: Any
    runner: uvicorn.Server


@contextmanager
def started(model: Any, **settings: Any) -> Iterator[Started]:
    """A server that listens, with uvicorn as the command starts it."""
    from mindnlp_ocr.server.command import _bound, _uvicorn

    config = ServerConfig(**{"port": 0, "shutdown_seconds": 5, **settings})
    listening = _bound(config)
    server = Server(model, config)
    runner = _uvicorn(uvicorn, server, config)
    thread = threading.Thread(target=runner.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not runner.started:
        if not thread.is_alive():
            raise RuntimeError("the server did not start")
        thread.join(0.01)
    try:
        yield Started(f"http://127.0.0.1:{listening.getsockname()[1]}", server, model, runner)
    finally:
        runner.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def documents(url: str) -> dict[str, int]:
    """How many documents a server holds, by their state, as it tells whoever watches it."""
    found = re.findall(r'^mindnlp_ocr:documents\{.*state="(\w+)".*\} (\S+)$', httpx.get(f"{url}/metrics").text, re.MULTILINE)
    return {state: int(float(count)) for state, count in found}


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait until something holds, which it does at once unless something is wrong."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
