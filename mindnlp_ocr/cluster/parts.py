"""The command line under msrun: the set-up of workers, and reading with one model that is split over all workers."""

import argparse
import contextlib
import os
from collections.abc import Callable, Sequence

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.ops.device import Device
from mindnlp_ocr.parallel.launch import Launch

Read = Callable[[argparse.Namespace, Sequence[str]], int]


def settle(arguments: argparse.Namespace, launch: Launch | None) -> None:
    """Set the device and the number of threads of a worker.

    Raises:
        SetupError: msrun assigned no rank to the worker.
    """
    if Device.parse(arguments.device).kind == "Ascend":  # one card per worker
        arguments.device = f"npu:{os.environ.get('DEVICE_ID', 0)}"
    if arguments.threads is None and launch is not None:
        arguments.threads = launch.threads
    if launch is not None and not launch.scheduler and launch.rank is None:
        raise SetupError(
            "msrun assigned no rank to this worker: add --node_rank on every machine, 0 on the first",
            code="msrun_rank_missing",
        )


def read_in_parts(arguments: argparse.Namespace, paths: Sequence[str], launch: Launch | None, read: Read) -> int:
    """Read pages with one model that is split over all workers. Only rank 0 writes output. Returns the exit status.

    Args:
        read: reads pages in this process.
    """
    if arguments.cache_dir:
        raise SetupError(
            "--cache-dir stores whole heads, but with --tensor-parallel each worker has only a part: use only one of the "
            "two",
            code="cache_in_parts",
        )
    if launch is None or launch.rank == 0:
        return read(arguments, paths)
    if launch.scheduler:
        return meet(arguments)
    arguments.output, arguments.stats = None, False
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
        return read(arguments, paths)


def meet(arguments: argparse.Namespace) -> int:
    """Run MindSpore's scheduler until the workers exit. It checks the same options as the workers, since it would otherwise
    wait for workers that have failed."""
    import mindspore
    from mindspore import communication

    from mindnlp_ocr.models.network import open_network
    from mindnlp_ocr.models.qwen2vl import EMBEDDED

    open_network(arguments.model or EMBEDDED, arguments.lora, arguments.tensor_parallel)
    mindspore.set_device("CPU")
    try:
        communication.init()
    except RuntimeError as error:
        first_line = str(error).strip().splitlines()[0]
        raise SetupError(f"a worker exited ({first_line}): see its log", code="worker_exited") from error
    return 0
