"""``POST /v1/chat/completions`` under load: full queues, clients that hang up, and errors of the engine."""

import socket
import threading
import time
from typing import Any

import httpx
import pytest

from mindnlp_ocr.errors import PageError
from tests.server.fake import FakeModel
from tests.server.shapes import asked, page
from tests.server.started import Started, started, until

PATH = "/v1/chat/completions"


def test_who_comes_when_the_queue_is_full_is_told_when_to_come_again(fake: FakeModel) -> None:
    fake.go.clear()
    with started(fake, max_waiting=2) as server:  # beside 4 slots
        threads = [
            threading.Thread(target=httpx.post, args=(server.url + PATH,), kwargs={"json": asked()}) for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        until(lambda: len(fake.submitted) == 6)
        answer = httpx.post(server.url + PATH, json=asked())
        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.json()["error"]["type"] == "rate_limit_error"
        fake.go.set()
        for thread in threads:
            thread.join()
        assert httpx.post(server.url + PATH, json=asked()).status_code == 200


def test_requests_whose_images_are_being_decoded_count_as_well(fake: FakeModel) -> None:
    fake.decoding.clear()
    with started(fake, max_waiting=0, workers=1) as server:
        threads = [
            threading.Thread(target=httpx.post, args=(server.url + PATH,), kwargs={"json": asked()}) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        until(lambda: server.server.admission.count == 4)
        assert httpx.post(server.url + PATH, json=asked()).status_code == 429
        assert httpx.get(server.url + "/health").status_code == 200  # the event loop is free meanwhile
        fake.decoding.set()
        for thread in threads:
            thread.join()
    assert len(fake.submitted) == 4


def test_the_engines_own_bound_is_told_before_an_image_is_decoded(server: Started, fake: FakeModel) -> None:
    fake.scheduler.config.max_waiting = 0
    answer = httpx.post(server.url + PATH, json={"messages": page(content=b"not looked at")})
    assert answer.status_code == 429
    assert answer.headers["Retry-After"] == "1"


def test_a_client_that_hangs_up_frees_its_slot(server: Started, fake: FakeModel) -> None:
    fake.go.clear()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(server.url + PATH, json=asked(), timeout=0.3)
    until(lambda: fake.cancelled)
    until(lambda: server.server.admission.count == 0)
    fake.go.set()
    assert httpx.post(server.url + PATH, json=asked()).status_code == 200


def test_a_client_that_hangs_up_while_its_image_is_decoded_is_not_queued(server: Started, fake: FakeModel) -> None:
    fake.decoding.clear()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(server.url + PATH, json=asked(n=2), timeout=0.3)
    time.sleep(0.1)
    fake.decoding.set()
    until(lambda: server.server.admission.count == 0)
    assert all(handle.done for handle in fake.submitted)
    assert len(fake.submitted) < 2


def test_a_page_that_fails_in_the_engine_is_an_error(http: httpx.Client, fake: FakeModel) -> None:
    fake.fail_at = 2
    answer = http.post(PATH, json=asked())
    assert answer.status_code == 400
    assert "overflowed" in answer.json()["error"]["message"]


def test_what_nobody_foresaw_is_a_500_without_its_details(
    http: httpx.Client, fake: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(fake, "submit", broken)
    answer = http.post(PATH, json=asked(), headers={"X-Request-Id": "abc-1"})
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "abc-1" in answer.text
    assert "secret" not in answer.text


def test_a_stream_that_is_left_frees_its_slot(server: Started, fake: FakeModel) -> None:
    fake.go.clear()
    with httpx.stream("POST", server.url + PATH, json=asked(stream=True, n=2), timeout=20) as answer:
        next(answer.iter_lines())
    until(lambda: len(fake.cancelled) == 2)
    until(lambda: server.server.admission.count == 0)


def test_half_a_request_and_a_hangup_leave_nothing_behind(server: Started, fake: FakeModel) -> None:
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n"
        )
        connection.sendall(head.encode() + b'{"messages": [')
    assert httpx.post(server.url + PATH, json=asked()).status_code == 200
    assert server.server.admission.count == 0
    assert len(fake.submitted) == 1


def test_page_errors_of_the_engine_are_errors_of_the_api() -> None:
    """The form of all errors, without a server."""
    from mindnlp_ocr.server.errors import ApiError, body, of_engine

    error = of_engine(PageError("too long: shorten it"))
    assert isinstance(error, ApiError)
    assert body(error) == {
        "error": {"message": "too long: shorten it", "type": "invalid_request_error", "param": None, "code": None}
    }
