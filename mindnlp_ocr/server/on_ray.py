"""The server on a Ray cluster (``mindnlp-ocr serve --ray``): replicas on its machines and cards, with Ray Serve."""

import argparse
import logging
import shlex
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from mindnlp_ocr.cluster.on_ray import ENVIRONMENT, connected, for_workers, needs_card, prepare
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.opening import most_slots
from mindnlp_ocr.options import check
from mindnlp_ocr.server.config import ServerConfig
from mindnlp_ocr.server.logs import event
from mindnlp_ocr.server.options import parser, replicas, server_config
from mindnlp_ocr.settings import parsed

prepare()

ROUTER = "mindnlp_ocr.server.routing:Router"
NAME = "mindnlp-ocr"  # name of the application on the cluster; a second start replaces the first
HEALTH_SECONDS = 10.0
HEALTH_TIMEOUT_SECONDS = 60.0  # the compilation of a graph may block the interpreter for this long
LEAST_SHUTDOWN_SECONDS = 1.0
FRONT_REQUESTS = 1000  # concurrent requests of a front, which only waits for the replicas


def run(arguments: argparse.Namespace, config: ServerConfig) -> int:
    """Serve until the process receives a signal. Returns the exit status.

    Raises:
        SetupError: Ray is missing or cannot be used, or the replicas cannot start.
    """
    try:
        from ray import serve

        application = deployed(arguments, config)
    except ImportError as error:
        raise SetupError(
            f"a server on Ray needs {error.name}: pip install 'mindnlp-ocr[ray-serve]'", code="package_missing"
        ) from error
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    with connected(arguments.ray), _until_signal() as stopped:
        if serve.status().proxies:
            event("Ray Serve is already running: --host and --port are ignored", 30)
        serve.start(proxy_location="EveryNode", http_options={"host": config.host, "port": config.port})
        try:
            serve.run(application, name=NAME)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise SetupError(
                f"the replicas cannot start ({reason}): see their logs and change the options", code="replicas_failed"
            ) from error
        low, high = replicas(arguments)
        event("listening", url=config.url(config.port), replicas=f"{low}:{high}")
        stopped.wait()
        event("stopping")
        serve.delete(NAME)
    event("stopped")
    return 0


def application(options: Mapping[str, str]) -> Any:
    """Return the application that a RayService or `serve run` deploys: ``mindnlp_ocr.server.on_ray:application``.

    Args:
        options: {"options": options of ``mindnlp-ocr serve`` as one string}, without --ray, --host and --port, which Ray
            determines.
    """
    arguments = parsed(parser(), ["--ray", "auto", "--host", "0.0.0.0", *shlex.split(options.get("options", ""))])
    check(arguments)
    return deployed(arguments, server_config(arguments))


def deployed(arguments: argparse.Namespace, config: ServerConfig) -> Any:
    """Return the deployments of the replicas and their front."""
    from ray import serve

    from mindnlp_ocr.server.replicas import Front, Reader

    low, high = replicas(arguments)
    threads = arguments.threads or 1
    options = argparse.Namespace(**for_workers(arguments, threads))
    config = replace(config, preset=options.preset)
    slots = max(arguments.batch_size or 0, most_slots(arguments))
    wait = max(LEAST_SHUTDOWN_SECONDS, config.shutdown_seconds)
    common: dict[str, Any] = {"graceful_shutdown_timeout_s": wait, "graceful_shutdown_wait_loop_s": 0.2}
    scaling = {"min_replicas": low, "max_replicas": high, "target_ongoing_requests": slots}
    reader = serve.deployment(
        name="Reader",
        **({"num_replicas": low} if low == high else {"autoscaling_config": scaling}),
        max_ongoing_requests=2 * slots,  # further requests go to another replica, which has to read the image as well
        max_queued_requests=config.max_waiting,
        ray_actor_options={
            "num_cpus": threads,
            "resources": {"NPU": 1.0} if needs_card(arguments) else {},
            "runtime_env": {"env_vars": ENVIRONMENT},
        },
        request_router_config={"request_router_class": ROUTER},
        health_check_period_s=HEALTH_SECONDS,
        health_check_timeout_s=HEALTH_TIMEOUT_SECONDS,
        **common,
    )(Reader)
    front = serve.deployment(name="Front", max_ongoing_requests=FRONT_REQUESTS, ray_actor_options={"num_cpus": 0}, **common)(
        Front
    )
    return front.bind(reader.bind(options, config), config)


@contextmanager
def _until_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set. After SIGINT, KeyboardInterrupt is raised on exit."""
    stopped, interrupted = threading.Event(), False

    def stop(number: int, _: Any) -> None:
        nonlocal interrupted
        interrupted = number == signal.SIGINT
        stopped.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if interrupted:
        raise KeyboardInterrupt
