"""Images from addresses: only of hosts that are allowed, and never from within."""

import http.server
import ipaddress
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from mindnlp_ocr.server import fetch
from mindnlp_ocr.server.errors import ApiError
from mindnlp_ocr.server.fetch import Fetcher, public
from tests.server.fake import TEXT, FakeModel
from tests.server.shapes import png
from tests.server.started import started


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/page.png")
            self.end_headers()
            return
        if self.path == "/gone":
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        if self.path == "/slow":
            for _ in range(100):
                self.wfile.write(b"x")
                time.sleep(0.05)
        self.wfile.write(b"x" * 10_000 if self.path == "/long" else png())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def host() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"localhost:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def within(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback counts as public: there is no other network in a test."""
    monkeypatch.setattr(fetch, "public", lambda address: address.is_loopback)


@pytest.mark.usefixtures("within")
def test_an_image_of_an_allowed_host_is_read(host: str) -> None:
    part = {"type": "image_url", "image_url": {"url": f"http://{host}/page.png"}}
    model = FakeModel()
    with started(model, url_hosts=(host,)) as server:
        body = {"messages": [{"role": "user", "content": [part]}]}
        answer = httpx.post(server.url + "/v1/chat/completions", json=body)
    assert answer.json()["choices"][0]["message"]["content"] == TEXT
    assert model.submitted[0].messages[0]["content"][0]["image"] == png()


@pytest.mark.usefixtures("within")
@pytest.mark.parametrize(("path", "says"), [("moved", "302"), ("gone", "404"), ("long", "more than"), ("slow", "too long")])
def test_what_is_no_image_in_time_is_refused(path: str, says: str, host: str) -> None:
    with pytest.raises(ApiError, match=says):
        Fetcher([host], 5000, 0.5)(f"http://{host}/{path}")


def test_an_allowed_name_with_an_address_from_within_is_refused(host: str) -> None:
    with pytest.raises(ApiError, match="not public"):
        Fetcher([host], 5000)(f"http://{host}/page.png")


@pytest.mark.usefixtures("within")
@pytest.mark.parametrize(
    "url",
    [
        "http://other.example/a.png",
        "http://{host}.other.example/a.png",
        "http://user@{host}/a.png",
        "http://other.example:80@{host}/a.png",
        "http://localhost/a.png",
        "http://localhost:1/a.png",
        "http://[::1]/a.png",
        "http://{host}/a\r\nX: y",
        "http://[",
        "http://localhost:99999/",
    ],
)
def test_other_hosts_are_refused(url: str, host: str) -> None:
    with pytest.raises(ApiError):
        Fetcher([host], 5000)(url.replace("{host}", host))


@pytest.mark.parametrize(
    ("address", "is_public"),
    [
        ("8.8.8.8", True),
        ("2606:4700:4700::1111", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_addresses_from_within_are_told_from_public_ones(address: str, is_public: bool) -> None:
    assert public(ipaddress.ip_address(address)) is is_public
