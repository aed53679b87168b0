"""Construction of a server from command-line options."""

import argparse
from dataclasses import replace

from mindnlp_ocr.opening import load_model
from mindnlp_ocr.server.app import Server
from mindnlp_ocr.server.config import ServerConfig


def open_server(arguments: argparse.Namespace, config: ServerConfig) -> Server:
    """Load the model and, unless --no-warm-up is given, compile its graphs.

    Raises:
        SetupError: see :func:`mindnlp_ocr.opening.load_model`.
    """
    model = load_model(arguments)
    # The server itself limits waiting requests. The scheduler also queues the lines of documents.
    waiting = config.max_waiting + model.slots * (config.documents_at_once + 1)
    model.scheduler.config = replace(model.scheduler.config, max_waiting=waiting)
    if not arguments.no_warm_up:
        model.warm_up(model.slots)
    return Server(model, config)
