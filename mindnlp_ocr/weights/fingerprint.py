"""What tells two checkpoints apart."""

import hashlib
from pathlib import Path

READ = ("*.json", "*.safetensors")


def fingerprint(folder: Path) -> str:
    """SHA-256 over the names and all bytes of a checkpoint's configuration, tokenizer and weights."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in READ for path in folder.glob(pattern)):
        digest.update(f"{path.name} {path.stat().st_size} ".encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()
