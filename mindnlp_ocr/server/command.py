"""The command ``mindnlp-ocr serve``: load the model, then listen."""

import argparse
import socket
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mindnlp_ocr.errors import SetupError, coded
from mindnlp_ocr.options import check
from mindnlp_ocr.server.config import MAX_HEADER_BYTES, ServerConfig
from mindnlp_ocr.server.options import open_to_all, parser, server_config
from mindnlp_ocr.settings import parsed


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until the process receives a signal. Returns the exit status."""
    try:
        arguments = parsed(parser(), sys.argv[1:] if argv is None else argv)
        check(arguments)
        return _run(arguments, server_config(arguments))
    except SetupError as error:
        print(f"error: {coded(error, error.code)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _run(arguments: argparse.Namespace, config: ServerConfig) -> int:
    try:
        import uvicorn

        from mindnlp_ocr.server.loading import open_server
    except ImportError as error:
        raise SetupError(
            f"the server needs {error.name}: pip install 'mindnlp-ocr[serve]'", code="package_missing"
        ) from error
    from mindnlp_ocr.server.logs import event, set_up

    set_up(config.log_level, config.log_format)
    listening = _bound(config)
    if open_to_all(config):
        event("no API key: every machine that reaches this one may send requests, see --api-key-file", 30, host=config.host)
    if arguments.ray is not None:
        return _on_ray(arguments, config, listening)
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        server = open_server(arguments, config)
        host, port = listening.getsockname()[:2]
        event("listening", url=replace(config, host=host).url(port), model=server.name)
        runner = _uvicorn(uvicorn, server, config)
        runner.run(sockets=[listening])
    return 0 if runner.started else 1


def _on_ray(arguments: argparse.Namespace, config: ServerConfig, listening: socket.socket) -> int:
    from mindnlp_ocr.server.on_ray import run

    port = listening.getsockname()[1]
    listening.close()  # the port is free, and Ray Serve binds it
    return run(arguments, replace(config, port=port))


def _uvicorn(uvicorn: Any, server: Any, config: ServerConfig) -> Any:
    class Runner(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            server.draining = True
            super().handle_exit(sig, frame)

    settings = uvicorn.Config(
        server.app,
        http="h11",  # uvicorn's other implementation does not limit the size of headers
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=config.shutdown_seconds,
        timeout_keep_alive=75,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
    )
    return Runner(settings)


def _bound(config: ServerConfig) -> socket.socket:
    """Bind the socket before the model is loaded, so that a port in use is reported at once."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listening = socket.socket(
        family, socket.SOCK_STREAM, socket.IPPROTO_TCP
    )  # the protocol is explicit because asyncio otherwise leaves Nagle's algorithm on
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((config.host, config.port))
    except OSError as error:
        listening.close()
        raise SetupError(
            f"--host {config.host} --port {config.port} cannot be used ({error.strerror}): use another port or address",
            code="port_in_use",
        ) from error
    listening.set_inheritable(True)
    return listening


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    from mindnlp_ocr.server.logs import event

    event("warning", 30, message=str(message))
