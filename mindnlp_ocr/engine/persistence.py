"""What the slots hold, to a folder and back."""

import dataclasses
from pathlib import Path

from mindnlp_ocr.cache.store import StoredPrefix, load_prefixes, prune, save_prefix
from mindnlp_ocr.engine.engine import Engine


def save_prefixes(engine: Engine, folder: Path, base: str, max_bytes: int) -> int:
    """Write every cached prefix under the name ``base``; the folder keeps to ``max_bytes``. Returns how many."""
    if engine.manager is None:
        return 0
    with engine.lock:
        entries = engine.manager.entries()
        for slot, key in entries:
            save_prefix(folder, StoredPrefix(dataclasses.replace(key, base=base), *engine.kv.read(slot, len(key))))
        prune(folder, max_bytes)
    return len(entries)


def restore_prefixes(engine: Engine, folder: Path, stored_base: str, base: str) -> int:
    """Read the prefixes that are named ``stored_base`` into free slots, as ``base``. Returns how many."""
    if engine.manager is None:
        return 0
    slots, kv_heads, length, head_dim = engine.kv.shape
    shape, loaded = (len(engine.kv.keys), kv_heads, length, head_dim), 0
    for entry in load_prefixes(folder, stored_base, shape, engine.kv.numpy_dtype, newest=slots - 1):
        key = dataclasses.replace(entry.key, base=base)
        with engine.lock:
            lease = engine.manager.adopt(key)
            if lease is not None:
                engine.kv.write(lease.slot, entry.keys, entry.values)
                engine.manager.release(lease, key)
                loaded += 1
    return loaded
