"""The command line under msrun: one model in parts, on all workers; or a part of the documents for each worker."""

import argparse
import contextlib
import os
from collections.abc import Callable, Sequence

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.ops.device import Device
from mindnlp_ocr.parallel.launch import Launch

Read = Callable[[argparse.Namespace, Sequence[str]], int]


def settle(arguments: argparse.Namespace, launch: Launch | None) -> None:
    """Give a worker its card, and its share of the cores.

    Raises:
        SetupError: the worker has no number.
    """
    if Device.parse(arguments.device).kind == "Ascend":  # each worker of a machine has a card of its own
        arguments.device = f"npu:{os.environ.get('DEVICE_ID', 0)}"
    if arguments.threads is None and launch is not None:
        arguments.threads = launch.threads
    if launch is not None and not launch.scheduler and launch.rank is None:
        raise SetupError("msrun has not numbered its workers: give --node_rank on every machine, 0 on the first")


def read_in_parts(arguments: argparse.Namespace, paths: Sequence[str], launch: Launch | None, read: Read) -> int:
    """Read pages with one model that all workers hold together. Rank 0 writes; returns the exit status.

    Args:
        read: reads pages in this process.
    """
    if arguments.cache_dir:
        raise SetupError("--cache-dir holds whole heads, --tensor-parallel has parts of them: give one of the two")
    if launch is None or launch.rank == 0:
        return read(arguments, paths)
    if launch.scheduler:
        return meet(arguments)
    arguments.output, arguments.stats = None, False
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
        return read(arguments, paths)


def meet(arguments: argparse.Namespace) -> int:
    """MindSpore's scheduler, until the workers have gone. What they would refuse ends it too: it would wait for them."""
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
        raise SetupError(f"a worker has gone ({first_line}): see its log") from error
    return 0
