"""KV memory: its configuration, its preallocated slots and its statistics."""
