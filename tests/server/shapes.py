"""Requests as clients send them."""

import base64
import io
from typing import Any

from PIL import Image

NAME = "qwen2vl-ocr-tiny"


def png(width: int = 60, height: int = 40) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "white").save(file, "PNG")
    return file.getvalue()


def data_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def page(text: str = "Extract all text.", content: bytes | None = None) -> list[dict[str, Any]]:
    """A question about one image."""
    url = data_url(png() if content is None else content)
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]}]


def asked(**fields: Any) -> dict[str, Any]:
    """A request about one image."""
    return {"model": NAME, "messages": page(), **fields}
