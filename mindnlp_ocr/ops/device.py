"""The device that runs the graphs, parsed once and checked before MindSpore is imported."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.ops.cores import usable_cores

Kind = Literal["CPU", "Ascend", "GPU"]
JitLevel = Literal["O0", "O1"]
_KINDS: dict[str, Kind] = {"cpu": "CPU", "ascend": "Ascend", "npu": "Ascend", "cuda": "GPU", "gpu": "GPU"}
_ASCEND_HOMES = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")


@dataclass(frozen=True)
class Device:
    """A kind of device, its number, and the settings of MindSpore for it.

    Attributes:
        jit_level: JIT level of every graph: "O0", or "O1", which fuses operators (on Ascend, and on a CPU with MindSpore
            2.10).
        deterministic: make results bitwise reproducible. On a CPU, they always are; on Ascend, only with this setting.
        memory_limit_gb: maximum memory on the device in GB. Not supported on a CPU, where MindSpore enforces no limit.
    """

    kind: Kind
    index: int = 0
    jit_level: JitLevel = "O0"
    deterministic: bool = False
    memory_limit_gb: float | None = None

    @classmethod
    def parse(cls, text: "str | Device", **setup: Any) -> "Device":
        """Parse "cpu", "CPU", "Ascend", "npu", "npu:0", "cuda" or "cuda:1"; ``setup`` sets attributes. A device is returned
        as is.

        Raises:
            SetupError: the text is not the name of a device.
        """
        if isinstance(text, Device):
            return text
        match = re.fullmatch(r"([a-z]+)(?::(\d+))?", str(text).strip().lower())
        if not match or match[1] not in _KINDS:
            raise SetupError(f"device {text!r} is unknown: use cpu, npu:0 (or Ascend) or cuda", code="device_unknown")
        return cls(_KINDS[match[1]], int(match[2] or 0), **setup)

    @property
    def leaves_host_free(self) -> bool:
        """Whether the cores of the host are mostly idle while the model computes."""
        return self.kind != "CPU"

    def __str__(self) -> str:
        return {"CPU": "cpu", "Ascend": f"npu:{self.index}", "GPU": f"cuda:{self.index}"}[self.kind]

    def check(self) -> None:
        """Check that this machine has the device, without importing MindSpore.

        Raises:
            SetupError: something is missing, or a setting is not supported on the device.
        """
        if self.jit_level not in get_args(JitLevel):
            raise SetupError(
                f"jit_level is {self.jit_level!r}: use {' or '.join(get_args(JitLevel))}", code="jit_level_unknown"
            )
        if self.memory_limit_gb is not None and not self.memory_limit_gb > 0:
            raise SetupError(f"memory_limit_gb is {self.memory_limit_gb}: use more than 0", code="not_positive")
        if self.memory_limit_gb is not None and self.kind == "CPU":
            raise SetupError(
                f"memory_limit_gb is {self.memory_limit_gb}: MindSpore enforces no limit on a CPU: remove it, and limit "
                "memory with cache_size_mb and max_pixels",
                code="memory_limit_unsupported",
            )
        if self.kind == "GPU":
            from mindnlp_ocr.ops.detect import cuda_state  # avoids a circular import

            raise SetupError(
                "device 'cuda': the MindSpore releases that this engine supports (2.7.2 to 2.10) have no CUDA backend "
                f"on PyPI ({cuda_state(self)}): use --device CPU or Ascend",
                code="cuda_unsupported",
            )
        if self.kind == "Ascend" and (missing := missing_ascend()):
            raise SetupError(
                f"device '{self}': no Ascend runtime here ({missing}): install the Ascend driver and the CANN toolkit "
                "and run `source /usr/local/Ascend/ascend-toolkit/set_env.sh`, or use --device CPU",
                code="ascend_missing",
            )

    def activate(self, threads: int | None = None) -> None:
        """Make MindSpore run on this device.

        Args:
            threads: number of threads for MindSpore's and our CPU operators in the whole process; None: unchanged.

        Raises:
            SetupError: the device does not exist, or MindSpore cannot use it.
        """
        self.check()
        if threads is not None and threads < 1:
            raise SetupError(f"threads is {threads}: use 1 or more", code="not_positive")
        import mindspore as ms

        try:
            ms.set_device(self.kind, self.index)
        except (RuntimeError, ValueError) as error:
            # MindSpore raises the same error if the process has already used this device.
            if (ms.get_context("device_target"), ms.get_context("device_id")) != (self.kind, self.index):
                first_line = str(error).strip().splitlines()[0]
                raise SetupError(
                    f"device '{self}': MindSpore {ms.__version__} cannot use it: {first_line}", code="device_unusable"
                ) from error
        if self.kind == "Ascend":
            self._set_up_ascend()
        if threads is not None:
            _use_threads(threads)
        elif not (os.environ.get("OMP_NUM_THREADS") or "threads" in _set) and usable_cores() < (os.cpu_count() or 1):
            _use_threads(usable_cores())  # MindSpore considers only the cores of the machine

    def _set_up_ascend(self) -> None:
        import mindspore as ms
        from mindspore.device_context.ascend.op_precision import precision_mode

        # By default, Ascend's training series computes float32 in float16.
        _set_once("precision_mode", "must_keep_origin_dtype", precision_mode)
        if self.deterministic:
            _set_once("deterministic", True, ms.set_deterministic)
        if self.memory_limit_gb is not None:
            _set_once(
                "memory_limit_gb", self.memory_limit_gb, lambda limit: ms.runtime.set_memory(max_size=f"{float(limit)}GB")
            )


_set: dict[str, Any] = {}  # settings that MindSpore accepts only once per process


def _set_once(name: str, value: Any, give: Callable[[Any], None]) -> None:
    if name in _set:
        if _set[name] != value:
            raise SetupError(
                f"{name} is {value}, but was {_set[name]} before in this process: MindSpore supports only one value",
                code="process_setting_fixed",
            )
        return
    try:
        give(value)
    except (RuntimeError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise SetupError(
            f"{name} is {value}: MindSpore does not accept it: {first_line}: leave it out", code="mindspore_setting_rejected"
        ) from error
    _set[name] = value


def _use_threads(count: int) -> None:
    from mindspore.device_context.cpu.op_tuning import threads_num

    from mindnlp_ocr.ops import native

    _set_once("threads", count, threads_num)
    if native.available()[0]:
        native.use_threads(count)


def missing_ascend() -> str:
    """Return what this machine lacks of the Ascend runtime; empty if nothing is missing."""
    missing = []
    if not any(os.environ.get(name) for name in _ASCEND_HOMES):
        missing.append(f"{' and '.join(_ASCEND_HOMES)} are not set")
    if not any(Path("/dev").glob("davinci[0-9]*")):
        missing.append("no /dev/davinci* device")
    return ", ".join(missing)
