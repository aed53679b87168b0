"""How many cores this process may keep busy."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def usable_cores(root: Path = Path("/")) -> int:
    """The cores of the process's affinity, or as many whole ones as the CPU quota of its container comes to; at least 1.

    Args:
        root: of the file system that ``proc`` and ``sys`` are read from.
    """
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([mine, *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """The limits of this process's control groups and of all above them, in cores.

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max) and
    https://docs.kernel.org/scheduler/sched-bwc.html (cpu.cfs_quota_us of version 1).
    """
    for line in _read(root / "proc" / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            names = ("", "unified")  # alone, or beside the controllers of version 1
        elif "cpu" in controllers.split(","):
            names = ("cpu", controllers)
        else:
            continue
        for name in names:
            mounted = root / "sys" / "fs" / "cgroup" / name
            # A container may see its own group as the mounted root, while the path is that of the host.
            for group in (PurePosixPath(path), *PurePosixPath(path).parents):
                yield from _quota(mounted / group.relative_to("/"))


def _quota(group: Path) -> Iterator[float]:
    limit = _read(group / "cpu.max").split() or [
        *_read(group / "cpu.cfs_quota_us").split(),
        *_read(group / "cpu.cfs_period_us").split(),
    ]
    if len(limit) == 2 and limit[0].isdigit() and limit[1].isdigit() and int(limit[1]):
        yield int(limit[0]) / int(limit[1])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):  # there is no such group, or none that we may see
        return ""
