"""What a slot can be: leased to a request, or the home of a cached entry; and how the two can contradict each other."""

from dataclasses import dataclass
from typing import NamedTuple

from mindnlp_ocr.cache.keys import PrefixKey


@dataclass(eq=False)
class Lease:
    """A slot in the hands of one request, from ``acquire`` or ``adopt`` to ``release``.

    Attributes:
        slot: the slot to write to. ``resize`` may change it.
        reused: leading tokens of the key that need not be run: their rows are in the slot, or in ``source``.
        source: the slot to copy the rows of the first ``reused`` tokens from, before ``copied`` is called; None where there
            is nothing to copy.
        key: the prompt.
        valid: leading tokens of the key whose rows are in the slot, for others to copy as well.
    """

    slot: int
    reused: int
    source: int | None
    key: PrefixKey
    valid: int

    def check_copied(self) -> None:
        """Raises ValueError where rows are still to be copied from ``source``."""
        if self.source is not None:
            raise ValueError(f"slot {self.slot} lacks {self.reused} tokens of slot {self.source}: copy them, call copied()")


class Entry(NamedTuple):
    """What a cached slot holds."""

    key: PrefixKey
    used: float  # by the clock


def slot_faults(slots: int, live: dict[int, Lease], cached: dict[int, Entry]) -> list[str]:
    """All that cannot be, in words: two states of a slot, slots that are none, leases and pins that point elsewhere."""
    faults = [f"slot {slot} is live and cached" for slot in sorted(live.keys() & cached.keys())]
    sources = {lease.source for lease in live.values() if lease.source is not None}
    faults += [
        f"slot {slot} is not one of {slots}"
        for slot in sorted(live.keys() | cached.keys() | sources)
        if not 0 <= slot < slots
    ]
    faults += [f"slot {slot} caches nothing" for slot, entry in cached.items() if not entry.key]
    for slot, lease in live.items():
        if lease.slot != slot:
            faults.append(f"slot {slot} is leased as slot {lease.slot}")
        if not (0 <= lease.reused < len(lease.key) and 0 <= lease.valid <= len(lease.key)):
            faults.append(f"slot {slot}: {lease.reused} reused and {lease.valid} valid of {len(lease.key)} tokens")
        if lease.source is not None and not _can_give(lease, live, cached):
            faults.append(f"slot {slot} is to copy {lease.reused} tokens from slot {lease.source}, which holds others")
    return faults


def _can_give(lease: Lease, live: dict[int, Lease], cached: dict[int, Entry]) -> bool:
    """Whether the source holds what the lease is to copy; nobody knows of a slot that was freed while pinned."""
    if lease.source == lease.slot:
        return False
    if lease.source in cached:
        held = cached[lease.source].key  # shorter where its request was cut off; the rows stay while they are pinned
        return held.common(lease.key) >= min(lease.reused, len(held))
    if lease.source in live:
        owner = live[lease.source]
        return min(owner.valid, owner.key.common(lease.key)) >= lease.reused
    return True
