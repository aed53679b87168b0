"""Saving the contents of slots to files, and loading them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from mindnlp_ocr.cache.store import StoredPrefix, load_prefixes, prune, save_prefix
from mindnlp_ocr.engine.engine import Engine


def save(engine: Engine, folder: Path, stored_base: Callable[[str], str], max_bytes: int) -> int:
    """Save every cached prefix with the base ``stored_base(base)``, and limit the folder to ``max_bytes``.

    Return the number of prefixes. For errors, see :func:`save_prefix`.
    """
    if engine.manager is None:
        return 0
    with engine.lock:
        entries = engine.manager.entries()
        for slot, key in entries:
            stored = dataclasses.replace(key, base=stored_base(key.base))
            save_prefix(folder, StoredPrefix(stored, *engine.kv.read(slot, len(key))))
        prune(folder, max_bytes)
    return len(entries)


def load(engine: Engine, folder: Path, stored_base: str, base: str) -> int:
    """Load prefixes that were saved with ``stored_base`` into free slots, and return their number."""
    if engine.manager is None:
        return 0
    loaded = 0
    slots, kv_heads, length, head_dim = engine.kv.shape
    shape, dtype = (len(engine.kv.keys), kv_heads, length, head_dim), engine.kv.numpy_dtype
    for entry in load_prefixes(folder, stored_base, shape, dtype, newest=slots - 1):
        key = dataclasses.replace(entry.key, base=base)
        with engine.lock:
            lease = engine.manager.adopt(key)
            if lease is not None:
                engine.kv.write(lease.slot, entry.keys, entry.values)
                engine.manager.release(lease, key)
                loaded += 1
    return loaded
