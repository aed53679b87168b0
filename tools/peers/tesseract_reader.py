"""Reader with Tesseract, which starts a process per page. A page's time includes this start and the loading of the models.

The number of threads is set to the number of usable cores: with fewer than four cores, Tesseract's default is several times
slower.
"""

import os
import resource
import subprocess
import time
from typing import Any

from common import Reader, untokenized

LANGUAGES = "eng+chi_sim"


class Tesseract(Reader):
    def __init__(self, segmentation: str) -> None:
        self._segmentation = segmentation

    def read(self, path: str) -> dict[str, Any]:
        environment = {"OMP_THREAD_LIMIT": str(len(os.sched_getaffinity(0))), **os.environ}
        start = time.perf_counter()
        command = ["tesseract", path, "-", "-l", LANGUAGES, "--psm", self._segmentation]
        done = subprocess.run(command, capture_output=True, check=False, env=environment)
        if done.returncode:
            raise RuntimeError(done.stderr.decode(errors="replace") or f"exit status {done.returncode}")
        return untokenized(done.stdout.decode("utf-8"), start)

    def version(self) -> str:
        done = subprocess.run(["tesseract", "--version"], capture_output=True, check=True, text=True)
        return done.stdout.partition("\n")[0]

    def peak_mb(self) -> float:
        """Return the peak resident memory of its processes in MB."""
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def open_reader(segmentation: str) -> Reader:
    return Tesseract(segmentation)
