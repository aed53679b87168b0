"""The driver of a farm: it starts Ray, distributes unfinished tasks, and collects statistics, but no pages."""

import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from mindnlp_ocr.cluster.on_ray import ENVIRONMENT, connected
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.farm.lock import Lock, locked
from mindnlp_ocr.farm.plan import add_documents
from mindnlp_ocr.farm.report import Progress, Report, failures
from mindnlp_ocr.farm.settings import FOLDER, FarmSettings
from mindnlp_ocr.farm.store import Store

PLANNERS = 2  # processes that open documents; Ray Data's back-pressure limits their speed to that of the actors
OBJECT_STORE_BYTES = 128 << 20  # if Ray is started here; the object store contains task numbers, but no pages
SOURCE_BLOCKS = 1000
PLANNED = 100  # maximum number of planned tasks of a planner
AHEAD = 4.0  # ratio of waiting to running tasks


@dataclass(frozen=True)
class Workers:
    """The actors that read pages, and their resources.

    Attributes:
        address: address of a Ray cluster, or "auto"; None: start Ray on this machine and stop it afterwards.
        actors: number of actors, each with a model; None: as many as fit into the cluster.
        cpus: number of CPUs of each actor.
        npus: number of NPUs of each actor.
        at_once: number of concurrent tasks of each actor, in threads; for readers that do not use the local device.
    """

    address: str | None = None
    actors: int | None = None
    cpus: float = 1
    npus: int = 0
    at_once: int = 1


def run(settings: FarmSettings, names: Iterable[str], workers: Workers, cost_per_hour: float | None = None) -> Report:
    """Read documents, except the pages that an earlier run with the same output has read.

    Raises:
        SetupError: Ray is missing or cannot be used, the output cannot be written or is locked by another run, or the model
            cannot be loaded.
    """
    start = time.perf_counter()
    _check_ray()
    try:
        store = Store(settings.output)
        with locked(store, settings.run) as lock:
            check_settings(store, settings)
            chunks = add_documents(store, names, settings)
            report = Report(cost_per_hour=cost_per_hour)
            with connected(workers.address, OBJECT_STORE_BYTES):
                _read(settings, chunks, workers, report, start, lock)
            store.clean()
            report.failures = failures(store)
            store.write(f"{FOLDER}/runs/{settings.run}.json", json.dumps(report.as_dict(), indent=2).encode())
    except OSError as error:
        raise SetupError(
            f"--output {settings.output} cannot be written or read ({error}): name another place", code="output_unwritable"
        ) from error
    return report


def _read(settings: FarmSettings, chunks: int, workers: Workers, report: Report, start: float, lock: Lock) -> None:
    first: float | None = None
    progress = Progress(sys.stderr.isatty())
    try:
        for account in _accounts(settings, chunks, workers):
            if account["stop"] is not None:
                raise SetupError(account["stop"], code=account["code"])
            lock.check(settings.output)
            now = time.perf_counter()
            if first is None:
                first = now - account["seconds"]
                report.start_seconds = first - start
            progress.task(account)
            report.note(account)
            report.seconds = now - first
    finally:
        progress.close()
    if first is None:
        report.start_seconds = time.perf_counter() - start


def _accounts(settings: FarmSettings, chunks: int, workers: Workers) -> Iterator[dict[str, Any]]:
    """Yield the account of every task when it is finished."""
    import ray

    from mindnlp_ocr.farm.actor import TaskReader, plan_chunks

    if not chunks:
        return
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    actors = _actors(workers)
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = 1  # one task per block, since actors receive blocks
    context.enable_progress_bars = False
    context._max_num_blocks_in_streaming_gen_buffer = (
        PLANNED  # Ray Data polls ten times per second and fetches at most this many blocks
    )
    context.memory_usage_poll_interval_s = None  # no thread per task that measures its memory
    context.downstream_capacity_backpressure_ratio = AHEAD

    def plan(batch: dict[str, Any]) -> Iterator[dict[str, list[int]]]:
        for number, task in plan_chunks(batch["chunk"], settings):
            yield {"chunk": [number], "task": [task]}

    # Ray warns that this option will be renamed.
    threads: dict[str, Any] = {"max_concurrency": workers.at_once} if workers.at_once > 1 else {}
    # Planners reserve no CPU, since the actors may reserve all of them.
    blocks = min(chunks, SOURCE_BLOCKS)
    source = ray.data.from_items([{"chunk": number} for number in range(chunks)], override_num_blocks=blocks)
    planners = ray.data.TaskPoolStrategy(size=min(PLANNERS, blocks))
    tasks = source.map_batches(plan, batch_size=1, num_cpus=0, compute=planners)
    accounts = tasks.map_batches(
        TaskReader,
        fn_constructor_args=[settings],
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            min_size=1,
            max_size=actors,
            initial_size=actors,
            enable_true_multi_threading=workers.at_once > 1,
        ),
        num_cpus=workers.cpus,
        runtime_env={"env_vars": ENVIRONMENT},  # only for actors, because such processes start slowly
        resources={"NPU": float(workers.npus)} if workers.npus else None,
        **threads,
    )
    try:
        for batch in accounts.iter_batches(batch_size=None, prefetch_batches=0):
            yield from map(json.loads, batch["account"])
    except (ray.exceptions.RayError, RuntimeError) as error:
        last = str(error).strip().splitlines()[-1]
        raise SetupError(
            f"the farm stopped ({last}): finished pages are kept, run the same command to continue", code="farm_stopped"
        ) from error


def _actors(workers: Workers) -> int:
    """Return the number of actors. Raises SetupError if the cluster has no room for a single one."""
    import ray

    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    room = there.get("CPU", 0) / workers.cpus if workers.cpus else float("inf")
    if workers.npus:
        room = min(room, there.get("NPU", 0) / workers.npus)
    if room < 1:
        raise SetupError(
            f"an actor needs {workers.cpus:g} CPUs and {workers.npus} NPUs, but the cluster has {there.get('CPU', 0):g} and "
            f"{there.get('NPU', 0):g}: lower --cpus-per-actor, or start Ray where the cards are",
            code="ray_resources_missing",
        )
    return workers.actors or int(min(room, 1e6))


# The output


def check_settings(store: Store, settings: FarmSettings) -> None:
    """Store the settings of an output, or compare them with the stored ones.

    Raises:
        SetupError: the output was started with other settings.
    """
    name = f"{FOLDER}/settings.json"
    wanted = json.loads(json.dumps(settings.decisive()))
    if not store.exists(name):
        store.write(name, json.dumps(wanted, indent=2).encode())
        return
    before = json.loads(store.read(name))
    for option, value in wanted.items():
        if before.get(option) != value:
            raise SetupError(
                f"{settings.output} was started with {option} {before.get(option)}, but {option} is now {value}: "
                "use another --output, or the original options",
                code="output_settings_differ",
            )


# Ray


def _check_ray() -> None:
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise SetupError(f"a farm needs Ray ({error}): pip install 'mindnlp-ocr[ray]'", code="package_missing") from error
