"""Tests of the number of usable cores, with a fake file system and in a real control group."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mindnlp_ocr.ops.cores import usable_cores

CORES = len(os.sched_getaffinity(0))
V1 = Path("/sys/fs/cgroup/cpu")


@pytest.fixture
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


CASES: dict[str, tuple[dict[str, str], int]] = {
    "nothing is known": ({}, 64),
    "version 2, no limit": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 64),
    "version 2": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
    "the group above is narrower": (
        {
            "proc/self/cgroup": "0::/pod/container\n",
            "sys/fs/cgroup/pod/container/cpu.max": "800000 100000\n",
            "sys/fs/cgroup/pod/cpu.max": "350000 100000\n",
        },
        3,
    ),
    "less than one core": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
    "version 1": (
        {
            "proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/docker/1\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us": "400000\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000\n",
        },
        4,
    ),
    "version 1 inside of a container, which sees its own group as the root": (
        {
            "proc/self/cgroup": "3:cpu:/docker/1\n0::/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "50000\n",
        },
        5,
    ),
    "version 1, no limit": (
        {
            "proc/self/cgroup": "3:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        64,
    ),
    "not a limit": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "many 100000\n"}, 64),
}


@pytest.mark.usefixtures("many_cores")
@pytest.mark.parametrize(("files", "cores"), CASES.values(), ids=CASES)
def test_a_quota_of_the_process_counts(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    assert usable_cores(write(tmp_path, files)) == cores


def test_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == CORES


@pytest.mark.skipif(CORES < 2, reason="one core cannot be limited further")
def test_a_process_under_a_quota_runs_as_few_threads() -> None:
    group = V1 / f"mindnlp_ocr_test_{os.getpid()}"
    try:
        group.mkdir()
        (group / "cpu.cfs_period_us").write_text("100000")
        (group / "cpu.cfs_quota_us").write_text("100000")
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        code = (
            f"from pathlib import Path; import os; Path({str(group / 'cgroup.procs')!r}).write_text(str(os.getpid()))\n"
            "from mindnlp_ocr.ops import native; from mindnlp_ocr.ops.cores import usable_cores\n"
            "print(usable_cores(), native.threads())"
        )
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert done.stdout.split() in (["1", "1"], ["1", "None"]), done.stderr
    finally:
        group.rmdir()
