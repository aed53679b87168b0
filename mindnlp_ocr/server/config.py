"""What an operator sets of the server."""

import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mindnlp_ocr.errors import SetupError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SHORTEST_KEY = 16
MAX_HEADER_BYTES = 32 << 10


class ApiKeys:
    """Keys that may call the server. Only their digests are kept, and every comparison takes the same time.

    Args:
        keys: the keys; none: everyone may.
    """

    def __init__(self, keys: tuple[str, ...] = ()) -> None:
        self._digests = tuple(hashlib.sha256(key.encode()).digest() for key in keys)

    @classmethod
    def from_file(cls, path: Path) -> "ApiKeys":
        """Keys of a file, one a line; lines that begin with # are passed over.

        Raises:
            SetupError: the file cannot be read, holds no key, or one that is too short to be secret.
        """
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise SetupError(f"--api-key-file {path} cannot be read ({error}): give a text file, a key a line") from error
        keys = tuple(line for line in lines if line and not line.startswith("#"))
        if not keys:
            raise SetupError(f"--api-key-file {path} holds no key: write one a line, or leave the option out")
        if short := [number for number, key in enumerate(keys, 1) if len(key) < SHORTEST_KEY]:
            raise SetupError(
                f"--api-key-file {path}: key {short[0]} has fewer than {SHORTEST_KEY} characters: make one with "
                "`openssl rand -hex 32`"
            )
        return cls(keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def owner(self, key: str) -> str | None:
        """A name of the key that does not give it away; None where it is no key of ours."""
        digest, found = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest(), None
        for number, known in enumerate(self._digests):
            if hmac.compare_digest(digest, known):
                found = f"key-{number + 1}"
        return found


NO_KEYS = ApiKeys()


@dataclass(frozen=True)
class ServerConfig:
    """Settings of the server; those of the model are its own.

    Attributes:
        host, port: where it listens.
        model_name: the model's name in the API; by default the last part of what the model was loaded from.
        keys: who may call.
        max_body_bytes: the longest body of a request.
        max_images: images of one request.
        max_image_pixels: pixels of one image, before it is resized.
        max_choices: the most answers to one request (``n``).
        max_waiting: requests that wait for a slot; more are refused.
        request_seconds: the longest that a request may wait and run.
        workers: threads that decode images and render pages.
        cors_origins: web pages of other servers that may call.
        allowed_hosts: names that a request may call the server by; empty: any.
        url_hosts: hosts from which images may be fetched; none by default.
        documents: the folder of uploaded documents; None: a temporary one, deleted at the end.
        document_quota_bytes: what that folder may hold.
        document_keep_seconds: how long a document stays when it has been read.
        document_seconds: how long one document may be read.
        document_pages: pages that are read of one document.
        documents_at_once: documents that are read at a time; others wait.
        documents_waiting: documents that wait; more are refused.
        preset: how documents are read that do not say it, by its name or a file; None: as the checkpoint declares.
        shutdown_seconds: how long running requests may go on when the server is stopped.
        log_level, log_format: of standard error.
        replica: the name of this server among several behind one address, which the ids of its documents hold; lower-case
            letters and digits.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    model_name: str | None = None
    keys: ApiKeys = NO_KEYS
    max_body_bytes: int = 64 << 20
    max_images: int = 16
    max_image_pixels: int = 64_000_000
    max_choices: int = 16
    max_waiting: int = 128
    request_seconds: float = 600.0
    workers: int = 2
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    url_hosts: tuple[str, ...] = ()
    documents: Path | None = None
    document_quota_bytes: int = 1 << 30
    document_keep_seconds: float = 3600.0
    document_seconds: float = 3600.0
    document_pages: int = 2000
    documents_at_once: int = 1
    documents_waiting: int = 32
    preset: str | None = None
    shutdown_seconds: float = 30.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    replica: str = ""

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names that the server may be called by: on loopback its own alone, so that no web page reaches it under a name
        whose address it changed."""
        return self.allowed_hosts or (LOOPBACK if self.host in LOOPBACK else ())

    def url(self, port: int) -> str:
        """Where it is called, at a port."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{port}"
