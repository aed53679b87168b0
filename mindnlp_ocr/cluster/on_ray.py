"""What a farm and a server on Ray have in common: a connection to a cluster, and what its processes need."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mindnlp_ocr.documents import presets
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.ops.cores import usable_cores
from mindnlp_ocr.ops.device import Device

# Ray loads protobuf before MindSpore, whose messages only the implementation in Python takes.
ENVIRONMENT = {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}


def prepare() -> None:
    """Set what Ray reads while it is imported. Its processes use this environment; under `uv run` they would make one of
    their own, without Ray."""
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")


def absolute(name: str) -> str:
    """A local name as every process of a cluster finds it; a URI as it is."""
    return name if "://" in name else str(Path(name).absolute())


def for_workers(arguments: argparse.Namespace, threads: int) -> dict[str, Any]:
    """The options of a command line as other processes need them: they run in other folders, and see one card each."""
    options = vars(arguments) | {"threads": threads}
    for name in ("model", "lora", "preset"):
        if options[name] is not None and not (name == "preset" and options[name] in presets.names()):
            options[name] = absolute(options[name])
    if needs_card(arguments):
        options["device"] = "npu:0"  # Ray shows an actor its own card alone
    return options


def needs_card(arguments: argparse.Namespace) -> bool:
    """Whether each model takes an NPU."""
    return Device.parse(arguments.device).kind == "Ascend"


@contextmanager
def connected(address: str | None, object_store_bytes: int | None = None) -> Iterator[None]:
    """A connection to Ray, unless there is one.

    Args:
        address: of a cluster, or "auto"; None or "local": Ray is started on this machine, and ended afterwards.
        object_store_bytes: of a Ray that is started; by default as Ray chooses.

    Raises:
        SetupError: no cluster can be used.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    import logging

    local = address in (None, "local")
    options: dict[str, Any] = {"address": "local" if local else address}
    if local:
        options |= {"num_cpus": usable_cores(), "object_store_memory": object_store_bytes, "include_dashboard": False}
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        place = "on this machine" if local else f"at {address}"
        raise SetupError(
            f"Ray {place} cannot be used ({reason}): see `ray status`, or give another --ray ADDRESS"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
