"""Which device runs the graphs: parsed once, checked before MindSpore is imported."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mindnlp_ocr.errors import SetupError

Kind = Literal["CPU", "Ascend", "GPU"]
_KINDS: dict[str, Kind] = {"cpu": "CPU", "ascend": "Ascend", "npu": "Ascend", "cuda": "GPU", "gpu": "GPU"}
_ASCEND_HOMES = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")


@dataclass(frozen=True)
class Device:
    """A kind of device and its number."""

    kind: Kind
    index: int = 0

    @classmethod
    def parse(cls, text: str) -> "Device":
        """From "cpu", "CPU", "Ascend", "npu", "npu:0", "cuda", "cuda:1".

        Raises:
            SetupError: any other text.
        """
        match = re.fullmatch(r"([a-z]+)(?::(\d+))?", str(text).strip().lower())
        if not match or match[1] not in _KINDS:
            raise SetupError(f"device {text!r} is unknown: give cpu, npu:0 (or Ascend) or cuda")
        return cls(_KINDS[match[1]], int(match[2] or 0))

    def __str__(self) -> str:
        return {"CPU": "cpu", "Ascend": f"npu:{self.index}", "GPU": f"cuda:{self.index}"}[self.kind]

    def check(self) -> None:
        """Whether this machine has the device, without importing MindSpore.

        Raises:
            SetupError: what is missing, and how to get it.
        """
        if self.kind == "GPU":
            raise SetupError(
                "device 'cuda': the MindSpore releases this engine runs on (2.7.2 to 2.10) have no CUDA backend on PyPI: "
                "use --device CPU or Ascend"
            )
        if self.kind == "Ascend" and (missing := missing_ascend()):
            raise SetupError(
                f"device '{self}': no Ascend runtime here ({missing}): install the Ascend driver and the CANN toolkit, "
                "run `source /usr/local/Ascend/ascend-toolkit/set_env.sh`, or use --device CPU"
            )

    def activate(self, threads: int | None = None) -> None:
        """Make MindSpore run on this device.

        Args:
            threads: for the operators of a CPU, MindSpore's and ours, in the whole process; None: as it was.

        Raises:
            SetupError: the device is not there, or MindSpore cannot use it.
        """
        self.check()
        if threads is not None and threads < 1:
            raise SetupError(f"threads is {threads}: give 1 or more")
        import mindspore as ms

        try:
            ms.set_device(self.kind, self.index)
        except (RuntimeError, ValueError) as error:
            # It says so, too, where the process has run something on this very device before.
            if (ms.get_context("device_target"), ms.get_context("device_id")) != (self.kind, self.index):
                first_line = str(error).strip().splitlines()[0]
                raise SetupError(f"device '{self}': MindSpore {ms.__version__} cannot use it: {first_line}") from error
        if threads is not None:
            _use_threads(threads)


_threads: int | None = None  # that MindSpore's own operators were given: it takes a number once in a process


def _use_threads(count: int) -> None:
    from mindspore.device_context.cpu.op_tuning import threads_num

    from mindnlp_ocr.ops import native

    global _threads
    if _threads is None:
        threads_num(count)
        _threads = count
    elif _threads != count:
        raise SetupError(f"threads is {count}, and was {_threads} before in this process: MindSpore takes one number only")
    if native.available()[0]:
        native.use_threads(count)


def missing_ascend() -> str:
    """What of the Ascend runtime this machine lacks; empty where nothing is missing."""
    missing = []
    if not any(os.environ.get(name) for name in _ASCEND_HOMES):
        missing.append(f"{' and '.join(_ASCEND_HOMES)} are not set")
    if not any(Path("/dev").glob("davinci[0-9]*")):
        missing.append("no /dev/davinci* device")
    return ", ".join(missing)
