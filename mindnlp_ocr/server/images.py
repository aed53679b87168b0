"""Images of requests: data URLs, checked before anything is decoded."""

import base64
import io
import warnings
from collections.abc import Callable, Sequence

from PIL import Image

from mindnlp_ocr.processing.images import errors_of
from mindnlp_ocr.server.config import ServerConfig
from mindnlp_ocr.server.errors import ApiError


def read(sources: Sequence[str], config: ServerConfig, fetch: Callable[[str], bytes] | None = None) -> list[bytes]:
    """The files of images, each within the limits of the server. Runs in a pool: it may take long.

    Args:
        fetch: gives what an address holds, where the server allows any.

    Raises:
        ApiError: too many, too large, or not a data URL.
        PageError: not an image.
    """
    check_count(sources, config)
    contents = []
    for source in sources:
        content = _content(source, config, fetch)
        check_size(content, config)
        contents.append(content)
    return contents


def check_count(sources: Sequence[str], config: ServerConfig) -> None:
    """Refuse too many images."""
    if len(sources) > config.max_images:
        raise ApiError(
            f"the request holds {len(sources)} images, this server takes {config.max_images}: send fewer, or start it with "
            "a higher --max-images",
            param="messages",
        )


def check_size(content: bytes, config: ServerConfig) -> None:
    """Refuse an image whose header says that it has too many pixels; nothing is decoded."""
    name = f"an image of {len(content)} bytes"
    with errors_of(name), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
    if width * height > config.max_image_pixels:
        raise ApiError(
            f"an image has {width} x {height} pixels, this server takes {config.max_image_pixels}: send it smaller, or "
            "start the server with a higher --max-image-mpixels",
            413,
            param="messages",
            code="image_too_large",
        )


def _content(source: str, config: ServerConfig, fetch: Callable[[str], bytes] | None) -> bytes:
    head, comma, data = source.partition(",")
    if head[:5].lower() == "data:":
        return decoded(head, comma, data)
    if source[:8].lower().startswith(("http://", "https://")):
        if fetch is None:
            raise ApiError(
                f"{source[:80]!r} is an address, and this server fetches nothing: send the image as a data URL, or start "
                "the server with --allow-url HOST",
                param="messages",
                code="url_not_allowed",
            )
        return fetch(source)
    raise ApiError(
        f"{source[:40]!r} is no data URL: send an image as data:image/png;base64,... (no files of the server are opened)",
        param="messages",
        code="invalid_image_url",
    )


def decoded(head: str, comma: str, data: str) -> bytes:
    """The bytes of a data URL in base64."""
    kind, *attributes = head[5:].lower().split(";")
    if not comma or "base64" not in [attribute.strip() for attribute in attributes]:
        raise ApiError(
            f"{head[:40]!r} is no data URL in base64: send data:image/png;base64,...",
            param="messages",
            code="invalid_image_url",
        )
    if kind and not kind.startswith(("image/", "application/octet-stream")):
        raise ApiError(
            f"a data URL holds {kind[:40]!r}, no image: send an image, or a document to /v1/documents",
            param="messages",
            code="invalid_image_url",
        )
    try:
        return base64.b64decode("".join(data.split()) if any(c in data for c in " \r\n\t") else data, validate=True)
    except ValueError as error:  # binascii.Error, or letters beyond ASCII
        raise ApiError(
            f"a data URL holds damaged base64 ({error}): encode the file again", param="messages", code="invalid_image_url"
        ) from error
