"""The states of a slot, leased to a request or holding a cached entry, and a check that they are consistent."""

from dataclasses import dataclass
from typing import NamedTuple

from mindnlp_ocr.cache.keys import PrefixKey


@dataclass(eq=False)
class Lease:
    """A slot that belongs to one request, from ``acquire`` or ``adopt`` to ``release``.

    Attributes:
        slot: the slot to write to. ``resize`` may change it.
        reused: number of leading tokens of the key that need not be run, because their rows are in the slot or in
            ``source``.
        source: the slot from which the rows of the first ``reused`` tokens must be copied before ``copied`` is called; None
            if there is nothing to copy.
        key: the prompt.
        valid: number of leading tokens of the key whose rows are in the slot; other requests may copy them.
    """

    slot: int
    reused: int
    source: int | None
    key: PrefixKey
    valid: int

    def check_copied(self) -> None:
        """Raise ValueError if rows still have to be copied from ``source``."""
        if self.source is not None:
            raise ValueError(
                f"slot {self.slot} lacks {self.reused} tokens of slot {self.source}: copy them and call copied()"
            )


class Entry(NamedTuple):
    """The entry that a cached slot holds."""

    key: PrefixKey
    used: float  # time of the last use


def slot_faults(slots: int, live: dict[int, Lease], cached: dict[int, Entry]) -> list[str]:
    """Describe all inconsistencies: slots in two states, invalid slot numbers, and leases or pins of the wrong slot."""
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
    """Return whether the source holds what the lease has to copy. A slot that was freed while pinned cannot be checked."""
    if lease.source == lease.slot:
        return False
    if lease.source in cached:
        held = cached[lease.source].key  # shorter if its request was truncated; pinned rows stay
        return held.common(lease.key) >= min(lease.reused, len(held))
    if lease.source in live:
        owner = live[lease.source]
        return min(owner.valid, owner.key.common(lease.key)) >= lease.reused
    return True
