"""Messages between the scheduler and the workers: JSON objects, one a line, over TCP.

The scheduler's host and port are those of msrun, where MindSpore's own scheduler would listen. As there, whoever can reach
the port is trusted: a run belongs on a network of its own.
"""

import hashlib
import json
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from mindnlp_ocr import __version__

MAX_LINE = 1 << 28
CHUNK = 1 << 16


def tune(connection: socket.socket) -> None:
    """A machine that goes without a word is missed after a minute."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def encode(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


class Lines:
    """Bytes as they come, to messages."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """The messages that ``data`` completes.

        Raises:
            ValueError: these are no messages.
        """
        *lines, self._held = (self._held + data).split(b"\n")
        if len(self._held) > MAX_LINE:
            raise ValueError("a line without end")
        for line in lines:
            message = json.loads(line)
            if not isinstance(message, dict):
                raise ValueError("not an object")
            yield message


def name_of(paths: Sequence[str]) -> str:
    """What two processes that read the same pages with the same release agree on."""
    return hashlib.sha256("\0".join((__version__, *paths)).encode("utf-8", "surrogateescape")).hexdigest()
