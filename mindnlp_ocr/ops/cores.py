"""The number of cores that this process may use."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def usable_cores(root: Path = Path("/")) -> int:
    """Return the number of cores in the process's affinity, limited by the CPU quota of its container; at least 1.

    Args:
        root: root of the file system from which ``proc`` and ``sys`` are read.
    """
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([mine, *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the limits of this process's control groups and their ancestors, in cores.

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max) and
    https://docs.kernel.org/scheduler/sched-bwc.html (cpu.cfs_quota_us of version 1).
    """
    for line in _read(root / "proc" / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            names = ("", "unified")  # version 2 only, or in addition to version 1
        elif "cpu" in controllers.split(","):
            names = ("cpu", controllers)
        else:
            continue
        for name in names:
            mounted = root / "sys" / "fs" / "cgroup" / name
            # In a container, its own group may be the mounted root, while the path is that on the host.
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
    except (OSError, UnicodeDecodeError):  # the group does not exist or is not accessible
        return ""
