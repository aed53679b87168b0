"""The options of ``mindnlp-ocr serve``."""

import argparse
import re
from pathlib import Path
from typing import NamedTuple

from mindnlp_ocr.documents import presets
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.options import Parser, add_options
from mindnlp_ocr.server.config import LOOPBACK, ApiKeys, ServerConfig

EPILOG = """\
examples:
  %(prog)s                                              the built-in model on http://127.0.0.1:8000
  %(prog)s --model MODEL --host 0.0.0.0 --api-key-file keys.txt
  %(prog)s --ray local --replicas 1:8 --device npu:0    a model on each of up to 8 cards of this machine
  curl http://127.0.0.1:8000/v1/models

The server is ready when /health returns 200. The API is compatible with OpenAI's; see docs/server.md.
"""


class Number(NamedTuple):
    """A whole number that an option sets."""

    default: int
    about: str
    least: int = 1


NUMBERS = {
    "max_waiting": Number(128, "maximum number of requests that wait for a slot; further ones are rejected", least=0),
    "request_seconds": Number(600, "maximum time for which a request may wait and run, in seconds"),
    "max_body_mb": Number(64, "maximum size of the body of a request, in MiB"),
    "max_images": Number(16, "maximum number of images in a request"),
    "max_image_mpixels": Number(64, "maximum size of an image before it is resized, in millions of pixels"),
    "max_choices": Number(16, "maximum number of answers to a request (n)"),
    "image_threads": Number(2, "number of threads that decode images and render pages"),
    "shutdown_seconds": Number(
        30, "time that running requests have to finish when the server is stopped, in seconds", least=0
    ),
    "documents_quota_mb": Number(1024, "maximum size of the folder for uploaded documents, in MiB"),
    "document_keep_seconds": Number(3600, "time after which a finished document is deleted, in seconds"),
    "document_seconds": Number(3600, "maximum time for reading a document, in seconds"),
    "document_pages": Number(2000, "maximum number of pages of a document"),
    "documents_at_once": Number(1, "number of documents that are read at a time"),
    "documents_waiting": Number(32, "maximum number of documents that wait; further ones are rejected"),
}


def parser() -> Parser:
    """Return the parser of the command."""
    parser = Parser(
        prog="mindnlp-ocr serve",
        description="Serve a model over HTTP: OpenAI's API, documents, metrics and a web page.",
        epilog=EPILOG,
    )
    add_options(parser)
    parser.add_argument("--host", default="127.0.0.1", metavar="NAME", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument(
        "--port", type=int, default=8000, metavar="N", help="port to listen on; 0: any free port (default: 8000)"
    )
    parser.add_argument(
        "--api-key-file", metavar="FILE", help="file of API keys, one per line (default: no key is required)"
    )
    parser.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="host name under which clients may reach the server; may be repeated (default: on loopback only its own "
        "names, else any)",
    )
    parser.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        metavar="URL",
        help="origin whose web pages may send requests, such as https://example.org; may be repeated (default: none)",
    )
    parser.add_argument(
        "--allow-url",
        action="append",
        default=[],
        metavar="HOST",
        help="host from which the server may fetch images, as HOST or HOST:PORT; may be repeated (default: none)",
    )
    parser.add_argument(
        "--served-model-name", metavar="NAME", help="name of the model in the API (default: name of its folder)"
    )
    parser.add_argument(
        "--documents-dir",
        metavar="DIR",
        help="folder for uploaded documents (default: a temporary folder, deleted when the server stops)",
    )
    for name, number in NUMBERS.items():
        text = f"{number.about} (default: {number.default})"
        parser.add_argument(option(name), type=int, default=number.default, metavar="N", help=text)
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="preset for reading documents: mineru, nanonets, olmocr, olmocr2, plain, rolmocr, or a YAML file (default: the "
        "checkpoint's own settings, or the preset for its name)",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="serve with replicas on the Ray cluster at this address; auto finds it, local starts Ray on this machine",
    )
    parser.add_argument(
        "--replicas", metavar="MIN[:MAX]", help="number of replicas, each with --threads CPUs or one NPU (default: 1)"
    )
    parser.add_argument(
        "--no-warm-up", action="store_true", help="compile graphs when they are first needed, not at the start"
    )
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info", help="log level (default: info)"
    )
    parser.add_argument("--log-format", choices=("text", "json"), default="text", help="format of log lines (default: text)")
    return parser


def option(name: str) -> str:
    """Return the option of a setting."""
    return f"--{name.replace('_', '-')}"


def server_config(arguments: argparse.Namespace) -> ServerConfig:
    """Return the server's settings from the parsed options.

    Raises:
        SetupError: an option is out of range, or the key file cannot be used.
    """
    if not 0 <= arguments.port <= 65535:
        raise SetupError(f"--port is {arguments.port}: use 1 to 65535, or 0 for any free port", code="port_out_of_range")
    for name, number in NUMBERS.items():
        if (value := getattr(arguments, name)) < number.least:
            raise SetupError(f"{option(name)} is {value}: use {number.least} or more", code="option_too_low")
    replicas(arguments)
    if arguments.ray is not None and arguments.documents_dir is not None:
        raise SetupError(
            "--documents-dir applies to a single server, but --ray starts several: leave it out", code="options_conflict"
        )
    if arguments.preset is not None:
        presets.load(arguments.preset)  # reports errors before the model is loaded
    return ServerConfig(
        host=arguments.host,
        port=arguments.port,
        model_name=arguments.served_model_name,
        keys=ApiKeys.from_file(Path(arguments.api_key_file)) if arguments.api_key_file else ApiKeys(),
        max_body_bytes=arguments.max_body_mb << 20,
        max_images=arguments.max_images,
        max_image_pixels=arguments.max_image_mpixels * 1_000_000,
        max_choices=arguments.max_choices,
        max_waiting=arguments.max_waiting,
        request_seconds=arguments.request_seconds,
        workers=arguments.image_threads,
        url_hosts=tuple(arguments.allow_url),
        cors_origins=tuple(arguments.cors_origin),
        allowed_hosts=tuple(arguments.allowed_host),
        documents=Path(arguments.documents_dir) if arguments.documents_dir else None,
        document_quota_bytes=arguments.documents_quota_mb << 20,
        document_keep_seconds=arguments.document_keep_seconds,
        document_seconds=arguments.document_seconds,
        document_pages=arguments.document_pages,
        documents_at_once=arguments.documents_at_once,
        documents_waiting=arguments.documents_waiting,
        preset=arguments.preset,
        shutdown_seconds=arguments.shutdown_seconds,
        log_level=arguments.log_level,
        log_format=arguments.log_format,
    )


def replicas(arguments: argparse.Namespace) -> tuple[int, int]:
    """Return the minimum and maximum number of replicas.

    Raises:
        SetupError: --replicas is malformed, or --ray is not given.
    """
    text = arguments.replicas
    if text is None:
        return 1, 1
    if arguments.ray is None:
        raise SetupError(
            f"--replicas is {text}, but replicas need a Ray cluster: add --ray ADDRESS, or --ray local",
            code="replicas_need_ray",
        )
    match = re.fullmatch(r"([1-9]\d*)(?::([1-9]\d*))?", text)
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if high < low:
        raise SetupError(f"--replicas is {text}: use a number, or a range such as 1:8", code="replicas_invalid")
    return low, high


def open_to_all(config: ServerConfig) -> bool:
    """Return whether other machines may send requests without a key."""
    return config.host not in LOOPBACK and not config.keys
