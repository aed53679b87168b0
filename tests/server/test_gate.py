"""Who may call, by which name, from which page, and with how long a body."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.server.config import ApiKeys
from tests.server.fake import FakeModel
from tests.server.shapes import asked
from tests.server.started import Started, started, until

PATH = "/v1/chat/completions"
KEYS = ("first-key-of-this-test", "second-key-of-this-test")


@pytest.fixture
def locked(fake: FakeModel) -> Iterator[Started]:
    with started(fake, keys=ApiKeys(KEYS)) as running:
        yield running


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("key", KEYS)
def test_every_key_of_the_file_may_call(key: str, locked: Started) -> None:
    assert httpx.post(locked.url + PATH, json=asked(), headers=bearer(key)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("wrong"),
        {"Authorization": "Bearer"},
        bearer(KEYS[0][:-1]),
        bearer(f"{KEYS[0]}x"),
        {"Authorization": KEYS[0]},
    ],
    ids=str,
)
def test_nobody_else_may(headers: dict[str, str], locked: Started, fake: FakeModel) -> None:
    for method, path in (("POST", PATH), ("GET", "/v1/models"), ("GET", "/metrics"), ("POST", "/tokenize"), ("GET", "/nix")):
        answer = httpx.request(method, locked.url + path, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
    assert not fake.submitted


def test_health_needs_no_key(locked: Started) -> None:
    assert httpx.get(locked.url + "/health").json() == {"status": "ok"}


def test_without_keys_everyone_may_call(http: httpx.Client) -> None:
    assert http.get("/v1/models").status_code == 200
    assert http.get("/v1/models", headers=bearer("whatever")).status_code == 200


def test_keys_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    file.write_text(f"# ours\n{KEYS[0]}\n\n  {KEYS[1]}  \n", encoding="utf-8")
    keys = ApiKeys.from_file(file)
    assert [keys.owner(key) for key in (*KEYS, "# ours", "")] == ["key-1", "key-2", None, None]
    assert not any(key in repr(vars(keys)) for key in KEYS)


@pytest.mark.parametrize(
    ("text", "says"), [("# nothing\n", "contains no key"), ("short\n", "fewer than 16"), (None, "cannot be")]
)
def test_a_key_file_that_protects_nothing_is_refused(text: str | None, says: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(SetupError, match=says):
        ApiKeys.from_file(file)


def test_a_body_that_says_it_is_too_long_is_refused(fake: FakeModel) -> None:
    with started(fake, max_body_bytes=1000) as server:
        answer = httpx.post(server.url + PATH, content=b"x" * 1001, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "request_too_large"


def test_a_body_that_does_not_say_how_long_it_is_is_refused_where_it_gets_too_long(fake: FakeModel) -> None:
    sent = []

    def endless() -> Iterator[bytes]:
        for number in range(200):
            sent.append(number)
            yield b" " * 1000

    with started(fake, max_body_bytes=5000) as server:
        answer = httpx.post(server.url + PATH, content=endless(), headers={"Content-Type": "application/json"})
        assert answer.status_code == 413


def test_json_must_say_that_it_is_json(http: httpx.Client, fake: FakeModel) -> None:
    """Else a web page could send it from anywhere without asking first."""
    import json

    answer = http.post(PATH, content=json.dumps(asked()), headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415
    assert not fake.submitted
    ours = http.post(PATH, content=json.dumps(asked()), headers={"Content-Type": "application/json; charset=utf-8"})
    assert ours.status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://127.0.0.1.evil.example", "::"]
)
def test_a_web_page_of_another_server_may_not_call(origin: str, http: httpx.Client, fake: FakeModel) -> None:
    assert http.post(PATH, json=asked(), headers={"Origin": origin}).status_code == 403
    assert not fake.submitted


def test_our_own_web_page_may(server: Started) -> None:
    assert httpx.post(server.url + PATH, json=asked(), headers={"Origin": server.url}).status_code == 200


def test_a_web_page_that_is_allowed_may_call_and_read(fake: FakeModel) -> None:
    origin = "https://pages.example"
    with started(fake, cors_origins=(origin,)) as server:
        ask = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
        before = httpx.options(server.url + PATH, headers=ask)
        assert before.headers["Access-Control-Allow-Origin"] == origin
        answer = httpx.post(server.url + PATH, json=asked(), headers={"Origin": origin})
        assert answer.headers["Access-Control-Allow-Origin"] == origin
        assert httpx.post(server.url + PATH, json=asked(), headers={"Origin": "https://other.example"}).status_code == 403


def test_no_header_invites_other_pages_by_default(server: Started) -> None:
    answer = httpx.post(server.url + PATH, json=asked(), headers={"Origin": server.url})
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "[::1", "a b", "@127.0.0.1"]
)
def test_on_loopback_it_answers_to_its_own_names_alone(host: str, http: httpx.Client) -> None:
    """A page that gave its own name our address (DNS rebinding) is not ours."""
    assert http.get("/v1/models", headers={"Host": host}).status_code in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1", "[::1]:8000"])
def test_names_of_loopback_are_answered(host: str, http: httpx.Client) -> None:
    assert http.get("/v1/models", headers={"Host": host}).status_code == 200


def test_other_names_are_answered_where_they_are_allowed(fake: FakeModel) -> None:
    with started(fake, allowed_hosts=("ocr.example",)) as server:
        assert httpx.get(server.url + "/v1/models", headers={"Host": "ocr.example"}).status_code == 200
        assert httpx.get(server.url + "/v1/models").status_code == 403


def test_headers_without_end_are_refused(http: httpx.Client) -> None:
    answer = http.get("/v1/models", headers={f"X-{number}": "y" * 4000 for number in range(20)})
    assert answer.status_code in (400, 431)


def test_an_id_is_kept_or_made(http: httpx.Client) -> None:
    assert http.get("/health", headers={"X-Request-Id": "mine-1"}).headers["X-Request-Id"] == "mine-1"
    made = {http.get("/health", headers={"X-Request-Id": given}).headers["X-Request-Id"] for given in ("", "a b", "x" * 200)}
    assert len(made) == 3
    assert all(len(one) == 32 for one in made)


def test_the_log_names_requests_and_keys_but_tells_neither_keys_nor_texts(
    locked: Started, caplog: pytest.LogCaptureFixture
) -> None:
    def events() -> list[dict[str, Any]]:
        return [record.fields for record in list(caplog.records) if hasattr(record, "fields")]

    logging.getLogger("mindnlp_ocr.server").propagate = True
    with caplog.at_level(logging.INFO, "mindnlp_ocr.server"):
        body = asked()
        body["messages"][0]["content"][1]["text"] = "a private question"
        headers = {**bearer(KEYS[1]), "X-Request-Id": "log-7"}
        httpx.post(locked.url + PATH, json={**body, "odd": 1}, headers=headers)
        until(lambda: any("path" in line for line in events()))
    fields = events()
    assert any(line.get("path") == PATH and line.get("status") == 200 and line.get("key") == "key-2" for line in fields)
    assert any(line.get("fields") == "odd" for line in fields)
    assert KEYS[1] not in str(fields)
    assert "private" not in str(fields) + caplog.text


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/v1/../etc/passwd", "/web/../app.py", "/web/%2e%2e/app.py", "/.env"])
def test_paths_that_are_none_are_not_found(path: str, http: httpx.Client) -> None:
    answer = http.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not_found_error"


def test_who_calls_while_the_server_goes_down_is_refused_and_who_was_there_is_answered(
    server: Started, fake: FakeModel
) -> None:
    import threading

    fake.go.clear()
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(httpx.post(server.url + PATH, json=asked(), timeout=20)))
    thread.start()
    until(lambda: fake.submitted)
    server.server.draining = True
    late = httpx.post(server.url + PATH, json=asked())
    assert (late.status_code, late.headers["Retry-After"]) == (503, "10")
    assert httpx.get(server.url + "/health").status_code == 503
    server.runner.should_exit = True
    thread.join(0.2)
    fake.go.set()
    thread.join()
    assert answers[0].status_code == 200
