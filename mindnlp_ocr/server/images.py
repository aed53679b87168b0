"""Images of chat requests: decoding of data URLs, and size checks before an image is decoded."""

import base64
import io
import warnings
from collections.abc import Callable, Sequence

from PIL import Image

from mindnlp_ocr.processing.images import errors_of
from mindnlp_ocr.server.config import ServerConfig
from mindnlp_ocr.server.errors import ApiError


def read(sources: Sequence[str], config: ServerConfig, fetch: Callable[[str], bytes] | None = None) -> list[bytes]:
    """Return the contents of image files, each within the limits of the server. Runs in a thread of a pool.

    Args:
        fetch: downloads the image at a web address; None if the server allows no addresses.

    Raises:
        ApiError: there are too many images, or one is too large or not a data URL.
        PageError: the content is not an image.
    """
    check_count(sources, config)
    contents = []
    for source in sources:
        content = _content(source, config, fetch)
        check_size(content, config)
        contents.append(content)
    return contents


def check_count(sources: Sequence[str], config: ServerConfig) -> None:
    """Raise an ApiError if there are too many images."""
    if len(sources) > config.max_images:
        raise ApiError(
            f"the request contains {len(sources)} images, but this server accepts at most {config.max_images}: send "
            "fewer, or start it with "
            "a higher --max-images",
            param="messages",
            code="too_many_images",
        )


def check_size(content: bytes, config: ServerConfig) -> None:
    """Raise an ApiError if the header of an image states too many pixels. The image is not decoded."""
    name = f"an image of {len(content)} bytes"
    with errors_of(name), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
    if width * height > config.max_image_pixels:
        raise ApiError(
            f"an image has {width} x {height} pixels, but this server accepts at most {config.max_image_pixels}: send "
            "it smaller, or "
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
                f"{source[:80]!r} is a web address, but this server does not fetch images: send the image as a data "
                "URL, or start "
                "the server with --allow-url HOST",
                param="messages",
                code="url_not_allowed",
            )
        return fetch(source)
    raise ApiError(
        f"{source[:40]!r} is not a data URL: send an image as data:image/png;base64,... (no files of the server are opened)",
        param="messages",
        code="invalid_image_url",
    )


def decoded(head: str, comma: str, data: str) -> bytes:
    """Return the bytes of a base64 data URL that was split at its first comma."""
    kind, *attributes = head[5:].lower().split(";")
    if not comma or "base64" not in [attribute.strip() for attribute in attributes]:
        raise ApiError(
            f"{head[:40]!r} is not a data URL in base64: send data:image/png;base64,...",
            param="messages",
            code="invalid_image_url",
        )
    if kind and not kind.startswith(("image/", "application/octet-stream")):
        raise ApiError(
            f"a data URL contains {kind[:40]!r}, which is not an image: send an image, or a document to /v1/documents",
            param="messages",
            code="invalid_image_url",
        )
    try:
        return base64.b64decode("".join(data.split()) if any(c in data for c in " \r\n\t") else data, validate=True)
    except ValueError as error:  # binascii.Error, or non-ASCII characters
        raise ApiError(
            f"a data URL contains damaged base64 ({error}): encode the file again",
            param="messages",
            code="invalid_image_url",
        ) from error
