"""SHA-256 of files."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal, as sha256sum prints it."""
    digest = hashlib.sha256()
    _feed(digest, path)
    return digest.hexdigest()


def fingerprint(paths: Iterable[Path]) -> str:
    """Return the SHA-256 over the names and contents of files."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name} {path.stat().st_size} ".encode())
        _feed(digest, path)
    return digest.hexdigest()


def _feed(digest: "hashlib._Hash", path: Path) -> None:
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
