"""The options of ``mindnlp-ocr serve``."""

import argparse
import re
from pathlib import Path

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
    _number(parser, "--max-waiting", 128, "maximum number of requests that wait for a slot; further ones are rejected")
    _number(parser, "--request-seconds", 600, "maximum time for which a request may wait and run, in seconds")
    _number(parser, "--max-body-mb", 64, "maximum size of the body of a request, in MiB")
    _number(parser, "--max-images", 16, "maximum number of images in a request")
    _number(parser, "--max-image-mpixels", 64, "maximum size of an image before it is resized, in millions of pixels")
    _number(parser, "--max-choices", 16, "maximum number of answers to a request (n)")
    _number(parser, "--image-threads", 2, "number of threads that decode images and render pages")
    _number(
        parser, "--shutdown-seconds", 30, "time that running requests have to finish when the server is stopped, in seconds"
    )
    parser.add_argument(
        "--documents-dir",
        metavar="DIR",
        help="folder for uploaded documents (default: a temporary folder, deleted when the server stops)",
    )
    _number(parser, "--documents-quota-mb", 1024, "maximum size of that folder, in MiB")
    _number(parser, "--document-keep-seconds", 3600, "time after which a finished document is deleted, in seconds")
    _number(parser, "--document-seconds", 3600, "maximum time for reading a document, in seconds")
    _number(parser, "--document-pages", 2000, "maximum number of pages of a document")
    _number(parser, "--documents-at-once", 1, "number of documents that are read at a time")
    _number(parser, "--documents-waiting", 32, "maximum number of documents that wait; further ones are rejected")
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


def _number(parser: Parser, name: str, default: int, about: str) -> None:
    parser.add_argument(name, type=int, default=default, metavar="N", help=f"{about} (default: {default})")


def server_config(arguments: argparse.Namespace) -> ServerConfig:
    """Return the server's settings from the parsed options.

    Raises:
        SetupError: an option is out of range, or the key file cannot be used.
    """
    if not 0 <= arguments.port <= 65535:
        raise SetupError(f"--port is {arguments.port}: use 1 to 65535, or 0 for any free port", code="port_out_of_range")
    least = {"max_waiting": 0, "shutdown_seconds": 0}
    for name in (
        "max_waiting", "request_seconds", "max_body_mb", "max_images", "max_image_mpixels", "max_choices", "image_threads",
        "shutdown_seconds", "documents_quota_mb", "document_keep_seconds", "document_seconds", "document_pages",
        "documents_at_once", "documents_waiting",
    ):  # fmt: skip
        if (value := getattr(arguments, name)) < least.get(name, 1):
            raise SetupError(
                f"--{name.replace('_', '-')} is {value}: use {least.get(name, 1)} or more", code="option_too_low"
            )
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
