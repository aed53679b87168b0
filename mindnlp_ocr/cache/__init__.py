"""The KV cache: configuration, preallocated slots, reuse of prefixes, statistics, and the cache on disk."""
