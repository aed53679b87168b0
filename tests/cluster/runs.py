"""Runs under msrun, started as a user starts them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

BIN = Path(sys.executable).parent
SECONDS = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environment() -> dict[str, str]:
    """Return the environment as before `import mindspore`, which would slow down our operators in child processes."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    return environment | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def start(script: str, *arguments: str, logs: Path, workers: int = 2) -> subprocess.Popen[str]:
    """Start msrun, which waits for its workers. The logs of workers and scheduler are written to a folder."""
    command = [str(BIN / "msrun"), f"--worker_num={workers}", f"--local_worker_num={workers}", "--join=True"]
    command += [f"--master_port={free_port()}", f"--log_dir={logs}", script, *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run(script: str, *arguments: str, logs: Path, workers: int = 2) -> int:
    """Return the exit status of msrun."""
    process = start(script, *arguments, logs=logs, workers=workers)
    process.communicate(timeout=SECONDS)
    return process.returncode


def log(logs: Path, name: str) -> str:
    """Return the output of one process of a run."""
    return (logs / f"{name}.log").read_text(encoding="utf-8")
