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

It answers when /health says 200. The API is OpenAI's; docs/server.md has the rest.
"""


def parser() -> Parser:
    """The options."""
    parser = Parser(
        prog="mindnlp-ocr serve",
        description="Serve Qwen2-VL over HTTP: OpenAI's API, documents, metrics, and a web page.",
        epilog=EPILOG,
    )
    add_options(parser)
    parser.add_argument("--host", default="127.0.0.1", metavar="NAME", help="address (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="port; 0: any that is free (default: 8000)")
    parser.add_argument("--api-key-file", metavar="FILE", help="keys that may call, one a line (default: everyone may)")
    parser.add_argument(
        "--allowed-host", action="append", default=[], metavar="NAME", help="a name it may be called by; may be repeated"
    )
    parser.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        metavar="URL",
        help="a web page's origin that may call, such as https://example.org; may be repeated (default: none)",
    )
    parser.add_argument(
        "--allow-url",
        action="append",
        default=[],
        metavar="HOST",
        help="a host from which images may be fetched, as HOST or HOST:PORT; may be repeated (default: none)",
    )
    parser.add_argument("--served-model-name", metavar="NAME", help="the model's name in the API (default: its folder's)")
    _number(parser, "--max-waiting", 128, "requests that wait for a slot; more are refused")
    _number(parser, "--request-seconds", 600, "the longest that a request may wait and run")
    _number(parser, "--max-body-mb", 64, "the longest body of a request, in MiB")
    _number(parser, "--max-images", 16, "images of one request")
    _number(parser, "--max-image-mpixels", 64, "millions of pixels of one image, before it is resized")
    _number(parser, "--max-choices", 16, "answers to one request (n)")
    _number(parser, "--image-threads", 2, "threads that decode images and render pages")
    _number(parser, "--shutdown-seconds", 30, "how long running requests may go on when it is stopped")
    parser.add_argument(
        "--documents-dir", metavar="DIR", help="where uploaded documents lie (default: a temporary folder, gone at the end)"
    )
    _number(parser, "--documents-quota-mb", 1024, "what that folder may hold, in MiB")
    _number(parser, "--document-keep-seconds", 3600, "how long a document stays when it was read")
    _number(parser, "--document-seconds", 3600, "how long one document may be read")
    _number(parser, "--document-pages", 2000, "pages of one document")
    _number(parser, "--documents-at-once", 1, "documents that are read at a time")
    _number(parser, "--documents-waiting", 32, "documents that wait; more are refused")
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="how documents are read: mineru, nanonets, olmocr, olmocr2, plain, rolmocr, or a YAML file (default: as the "
        "checkpoint declares, or by its name)",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="serve with replicas on a Ray cluster: its address; auto; or local, which starts Ray on this machine",
    )
    parser.add_argument(
        "--replicas", metavar="MIN[:MAX]", help="processes with a model, of --threads CPUs or one NPU each (default: 1)"
    )
    parser.add_argument("--no-warm-up", action="store_true", help="compile graphs when they are needed, not at the start")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info", help="(default: info)")
    parser.add_argument("--log-format", choices=("text", "json"), default="text", help="of log lines (default: text)")
    return parser


def _number(parser: Parser, name: str, default: int, about: str) -> None:
    parser.add_argument(name, type=int, default=default, metavar="N", help=f"{about} (default: {default})")


def server_config(arguments: argparse.Namespace) -> ServerConfig:
    """The settings of the server.

    Raises:
        SetupError: a number that nothing can be served with, or a key file that cannot be used.
    """
    if not 0 <= arguments.port <= 65535:
        raise SetupError(f"--port is {arguments.port}: give 1 to 65535, or 0 for any that is free")
    least = {"max_waiting": 0, "shutdown_seconds": 0}
    for name in (
        "max_waiting", "request_seconds", "max_body_mb", "max_images", "max_image_mpixels", "max_choices", "image_threads",
        "shutdown_seconds", "documents_quota_mb", "document_keep_seconds", "document_seconds", "document_pages",
        "documents_at_once", "documents_waiting",
    ):  # fmt: skip
        if (value := getattr(arguments, name)) < least.get(name, 1):
            raise SetupError(f"--{name.replace('_', '-')} is {value}: give {least.get(name, 1)} or more")
    replicas(arguments)
    if arguments.ray is not None and arguments.documents_dir is not None:
        raise SetupError("--documents-dir is of one server, and --ray starts several: leave it out")
    if arguments.preset is not None:
        presets.load(arguments.preset)  # what is wrong with it is said before the model is loaded
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
    """How many replicas there are at least and at most.

    Raises:
        SetupError: it is no such number, or there is no cluster for them.
    """
    text = arguments.replicas
    if text is None:
        return 1, 1
    if arguments.ray is None:
        raise SetupError(f"--replicas is {text}, and they need a Ray cluster: give --ray ADDRESS, or --ray local")
    match = re.fullmatch(r"([1-9]\d*)(?::([1-9]\d*))?", text)
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if high < low:
        raise SetupError(f"--replicas is {text}: give a number, or two such as 1:8 for at least 1 and at most 8")
    return low, high


def open_to_all(config: ServerConfig) -> bool:
    """Whether other machines may call without a key."""
    return config.host not in LOOPBACK and not config.keys
