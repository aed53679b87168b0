"""Ray support shared by the farm and the server: the connection to a cluster, and options for its processes."""

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

# Ray loads protobuf before MindSpore does, and only the Python implementation accepts MindSpore's messages.
ENVIRONMENT = {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}


def prepare() -> None:
    """Set the variables that Ray reads during its import. Under `uv run`, Ray would otherwise create a new environment for
    its processes, without Ray."""
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")


def absolute(name: str) -> str:
    """Return a local path as an absolute path, and a URI unchanged."""
    return name if "://" in name else str(Path(name).absolute())


def for_workers(arguments: argparse.Namespace, threads: int) -> dict[str, Any]:
    """Return command-line options for other processes, which run in other folders and see a single card."""
    options = vars(arguments) | {"threads": threads}
    for name in ("model", "lora", "preset"):
        if options[name] is not None and not (name == "preset" and options[name] in presets.names()):
            options[name] = absolute(options[name])
    if needs_card(arguments):
        options["device"] = "npu:0"  # an actor sees only its own card
    return options


def needs_card(arguments: argparse.Namespace) -> bool:
    """Return whether each model needs an NPU."""
    return Device.parse(arguments.device).kind == "Ascend"


@contextmanager
def connected(address: str | None, object_store_bytes: int | None = None) -> Iterator[None]:
    """Connect to Ray, unless this process is already connected.

    Args:
        address: address of a cluster, or "auto"; None or "local": start Ray on this machine and stop it afterwards.
        object_store_bytes: size of the object store if Ray is started; by default Ray chooses it.

    Raises:
        SetupError: the cluster cannot be used.
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
            f"Ray {place} cannot be used ({reason}): see `ray status`, or use another --ray ADDRESS", code="ray_unavailable"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
