"""The settings of the server, and its API keys."""

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
    """The accepted API keys. Only their digests are stored, and they are compared in constant time.

    Args:
        keys: the keys; if empty, no key is required.
    """

    def __init__(self, keys: tuple[str, ...] = ()) -> None:
        self._digests = tuple(hashlib.sha256(key.encode()).digest() for key in keys)

    @classmethod
    def from_file(cls, path: Path) -> "ApiKeys":
        """Read keys from a file with one key per line. Lines that begin with # are ignored.

        Raises:
            SetupError: the file cannot be read, contains no key, or contains a key shorter than 16 characters.
        """
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise SetupError(
                f"--api-key-file {path} cannot be read ({error}): pass a text file with one key per line",
                code="file_unreadable",
            ) from error
        keys = tuple(line for line in lines if line and not line.startswith("#"))
        if not keys:
            raise SetupError(
                f"--api-key-file {path} contains no key: write one key per line, or leave the option out",
                code="api_key_file_empty",
            )
        if short := [number for number, key in enumerate(keys, 1) if len(key) < SHORTEST_KEY]:
            raise SetupError(
                f"--api-key-file {path}: key {short[0]} has fewer than {SHORTEST_KEY} characters: make one with "
                "`openssl rand -hex 32`",
                code="api_key_too_short",
            )
        return cls(keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def owner(self, key: str) -> str | None:
        """Return a name for a key that does not reveal it, or None if the key is unknown."""
        digest, found = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest(), None
        for number, known in enumerate(self._digests):
            if hmac.compare_digest(digest, known):
                found = f"key-{number + 1}"
        return found


NO_KEYS = ApiKeys()


@dataclass(frozen=True)
class ServerConfig:
    """Settings of the server. The settings of the model are separate.

    Attributes:
        host, port: address to listen on.
        model_name: name of the model in the API; by default the last component of the model's path.
        keys: accepted API keys.
        max_body_bytes: maximum size of the body of a request.
        max_images: maximum number of images in a request.
        max_image_pixels: maximum number of pixels of an image before it is resized.
        max_choices: maximum number of answers to a request (``n``).
        max_waiting: maximum number of requests that wait for a slot; further ones are rejected.
        request_seconds: maximum time for which a request may wait and run.
        workers: number of threads that decode images and render pages.
        cors_origins: origins of other servers whose web pages may send requests.
        allowed_hosts: accepted values of the Host header; empty: any.
        url_hosts: hosts from which the server may fetch images; none by default.
        documents: folder for uploaded documents; None: a temporary folder, deleted when the server stops.
        document_quota_bytes: maximum size of that folder.
        document_keep_seconds: time after which a finished document is deleted.
        document_seconds: maximum time for reading a document.
        document_pages: maximum number of pages of a document.
        documents_at_once: number of documents that are read at a time; others wait.
        documents_waiting: maximum number of documents that wait; further ones are rejected.
        preset: name or file of the preset for documents whose request names none; None: the checkpoint's own settings.
        shutdown_seconds: time that running requests have to finish when the server is stopped.
        log_level, log_format: level and format of log lines on standard error.
        replica: name of this server among several replicas, part of the ids of its documents; lower-case letters and
            digits.
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
        """Accepted values of the Host header. On loopback only its own names, which prevents DNS rebinding."""
        return self.allowed_hosts or (LOOPBACK if self.host in LOOPBACK else ())

    def url(self, port: int) -> str:
        """Return the URL of the server at a port."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{port}"
