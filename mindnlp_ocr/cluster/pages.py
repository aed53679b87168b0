"""The command line under msrun: pages shared among the workers, or one model in parts on all of them."""

import argparse
import contextlib
import copy
import io
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from mindnlp_ocr import cli
from mindnlp_ocr.cache.stats import total
from mindnlp_ocr.cluster.gather import Gather, share
from mindnlp_ocr.cluster.launch import Launch
from mindnlp_ocr.cluster.worker import Scheduler, supervise
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.ops.device import Device
from mindnlp_ocr.output import Output, Printer, print_report, standard_output, status


def run(arguments: argparse.Namespace, paths: Sequence[str], launch: Launch | None) -> int:
    """What this process of a run has to do."""
    if Device.parse(arguments.device).kind == "Ascend":  # each worker of a machine has a card of its own
        arguments.device = f"npu:{os.environ.get('DEVICE_ID', 0)}"
    if arguments.threads is None and launch is not None:
        arguments.threads = launch.threads
    if launch is not None and not launch.scheduler and launch.rank is None:
        raise SetupError("msrun has not numbered its workers: give --node_rank on every machine, 0 on the first")
    if arguments.tensor_parallel != 1:
        return _in_parts(arguments, paths, launch)
    assert launch is not None
    if launch.scheduler:
        return gather(arguments, paths, launch)
    assert launch.rank is not None
    return supervise(read_share, launch.rank, arguments, paths, launch)


# One model in parts


def _in_parts(arguments: argparse.Namespace, paths: Sequence[str], launch: Launch | None) -> int:
    if arguments.cache_dir:
        raise SetupError("--cache-dir holds whole heads, --tensor-parallel has parts of them: give one of the two")
    if launch is None or launch.rank == 0:
        return cli.read(arguments, paths)
    if launch.scheduler:
        return _meet(arguments)
    arguments.output, arguments.stats = None, False
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
        return cli.read(arguments, paths)


def _meet(arguments: argparse.Namespace) -> int:
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


# Pages shared among workers


def gather(arguments: argparse.Namespace, paths: Sequence[str], launch: Launch) -> int:
    """The scheduler: write what the workers read, in order. Where that goes to standard output, rank 0 prints it."""
    with Gather(launch, paths) as gathered:
        try:
            return _write(arguments, paths, gathered)
        except SetupError as error:
            gathered.refuse(str(error))
            raise


def _write(arguments: argparse.Namespace, paths: Sequence[str], gathered: Gather) -> int:
    held = io.StringIO()
    with Output(arguments.output) as output:
        target = output if arguments.output else held
        printer = None if arguments.format == "json" else Printer(target, heads=len(paths) > 1)
        results = []
        for page in gathered.results():
            results.append(page)
            if printer is not None:
                printer.page(page)
        workers = gathered.workers
        infos = [worker.info for worker in workers if worker.info]
        cache = total([info["cache"] for info in infos])
        if arguments.format == "json":
            ranks = [{"rank": worker.rank, "pages": len(worker.pages), "error": worker.fault} for worker in workers]
            print_report(target, results, infos[0]["model"] if infos else None, cache, ranks=ranks)
    errors = "".join(f"error: {fault}\n" for fault in gathered.faults)
    if arguments.stats:
        errors += json.dumps(cache, indent=2) + "\n"
    if not gathered.report(0, {"out": held.getvalue(), "err": errors}) and not arguments.output:
        print(held.getvalue(), end="", file=standard_output(), flush=True)
    sys.stderr.write(errors)
    return status(results)


def read_share(arguments: argparse.Namespace, paths: Sequence[str], launch: Launch) -> int:
    """A worker: read its share, and send every page as it is read."""
    assert launch.rank is not None
    own = share(len(paths), launch.rank, launch.ranks)
    arguments = copy.copy(arguments)
    arguments.output, arguments.stats = None, False
    if arguments.cache_dir:
        arguments.cache_dir = str(Path(arguments.cache_dir) / f"rank-{launch.rank}")
    try:
        with Scheduler(launch, paths) as scheduler, warnings.catch_warnings():
            warnings.showwarning = cli.warn
            try:
                _send_pages(arguments, paths, own, scheduler)
            except SetupError as error:
                scheduler.send({"failed": str(error)})
                raise
            if launch.rank == 0:
                report = scheduler.receive()
                print(report["out"], end="", file=standard_output(), flush=True)
                print(report["err"], end="", file=sys.stderr, flush=True)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _send_pages(arguments: argparse.Namespace, paths: Sequence[str], own: range, scheduler: Scheduler) -> None:
    info = {}
    if own:
        model = cli.load_model(arguments)
        if arguments.cache_dir:
            model.load_cache(arguments.cache_dir)
        try:
            pages = cli.read_pages(model, [paths[number] for number in own], arguments, None)
            for number, page in zip(own, pages, strict=True):
                scheduler.send({"page": number, "result": page})
        finally:
            if arguments.cache_dir:
                model.save_cache(arguments.cache_dir)
        info = {"model": model.get_model_info(), "cache": model.get_cache_stats()}
    scheduler.send({"end": info})
