"""``/v1/documents``, with the built-in checkpoint and small pages."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pikepdf
import pytest
from PIL import Image

from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
from mindnlp_ocr.server.config import ApiKeys
from tests.conftest import ROOT
from tests.server.started import Started, documents, started, until

WORD = ROOT / "tests" / "pages" / "word_56x56.png"
PATH = "/v1/documents"


def pdf(pages: int) -> bytes:
    """A PDF whose pages are a small picture of a word."""
    file = io.BytesIO()
    with Image.open(WORD) as image:
        page = image.convert("RGB")
    page.save(file, "PDF", resolution=72, save_all=True, append_images=[page] * (pages - 1))
    return file.getvalue()


@pytest.fixture(scope="module")
def server(model: Qwen2VLModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    with started(model, documents=tmp_path_factory.mktemp("documents")) as running:
        yield running


@pytest.fixture
def http(server: Started) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def send(http: httpx.Client, content: bytes, name: str = "a.pdf", **fields: Any) -> httpx.Response:
    return http.post(PATH, files={"file": (name, content)}, data={"dpi": "72", **fields})


def ended(http: httpx.Client, sent: httpx.Response) -> dict[str, Any]:
    assert sent.status_code == 202, sent.text
    place = f"{PATH}/{sent.json()['id']}"
    until(lambda: http.get(place).json()["status"] not in ("waiting", "reading"))
    return http.get(place).json()


def events(text: str) -> list[tuple[str, Any]]:
    found, name = [], ""
    for line in text.splitlines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            found.append((name, json.loads(line.removeprefix("data: "))))
    return found


@pytest.fixture(scope="module")
def word(model: Qwen2VLModel) -> str:
    content = [{"type": "image", "image": WORD.read_bytes()}, {"type": "text", "text": "Extract all text from this image."}]
    return model.infer([{"role": "user", "content": content}])


def test_a_form_is_taken_and_read(http: httpx.Client, word: str) -> None:
    sent = send(http, pdf(3))
    state = ended(http, sent)
    assert sent.headers["Location"] == f"{PATH}/{state['id']}"
    assert (state["status"], state["pages"], state["pages_read"], state["name"]) == ("done", 3, 3, "a.pdf")
    assert state["expires_at"] > state["created_at"]
    assert http.get(f"{PATH}/{state['id']}", params={"format": "text"}).text.split() == [word] * 3
    page = http.get(f"{PATH}/{state['id']}/pages/2").json()
    assert (page["number"], page["text"], page["width"]) == (2, word, 56)


@pytest.mark.parametrize("prefix", ["", "data:application/pdf;base64,"])
def test_json_with_base64_is_taken_as_well(prefix: str, http: httpx.Client, word: str) -> None:
    body = {"document": prefix + base64.b64encode(pdf(3)).decode(), "name": "b.pdf", "pages": "2-3", "dpi": 72}
    state = ended(http, http.post(PATH, json=body))
    assert (state["pages"], state["name"]) == (2, "b.pdf")
    assert http.get(f"{PATH}/{state['id']}/pages/3").json()["text"] == word
    assert http.get(f"{PATH}/{state['id']}/pages/1").status_code == 404


def test_pages_come_as_events_as_they_are_read(http: httpx.Client, word: str) -> None:
    answer = send(http, pdf(3), stream="true")
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = events(answer.text)
    assert [name for name, _ in found] == ["document", "page", "page", "page", "end"]
    assert [data["text"] for name, data in found if name == "page"] == [word] * 3
    assert found[-1][1]["status"] == "done"
    again = http.get(f"{PATH}/{found[0][1]['id']}/events", headers={"Last-Event-ID": "2"})
    assert [name for name, _ in events(again.text)] == ["document", "page", "end"]


@pytest.mark.parametrize(
    ("name", "kind", "has"),
    [
        ("text", "text/plain", None),
        ("markdown", "text/markdown", None),
        ("json", "application/json", b'"schema_version"'),
        ("jsonl", "application/jsonl", b'"pages"'),
        ("hocr", "text/html", b"ocr_page"),
        ("alto", "application/xml", b"<alto"),
        ("tsv", "text/tab-separated-values", b"\t"),
    ],
)
def test_the_answer_may_be_a_file_in_any_format(
    name: str, kind: str, has: bytes | None, http: httpx.Client, word: str
) -> None:
    answer = send(http, WORD.read_bytes(), "wörd.png", format=name)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(kind)
    assert has is None or has in answer.content
    assert word in answer.content.decode()
    assert "attachment" in answer.headers["content-disposition"]
    assert "sandbox" in answer.headers["content-security-policy"]  # hOCR is HTML that others wrote


def test_a_searchable_pdf_has_the_text(http: httpx.Client, word: str) -> None:
    state = ended(http, send(http, pdf(2)))
    answer = http.get(f"{PATH}/{state['id']}", params={"format": "pdf"})
    assert answer.headers["content-type"] == "application/pdf"
    with pikepdf.open(io.BytesIO(answer.content)) as document:
        assert len(document.pages) == 2


def test_the_picture_of_a_page_has_the_size_that_its_boxes_refer_to(http: httpx.Client) -> None:
    state = ended(http, send(http, pdf(1)))
    answer = http.get(f"{PATH}/{state['id']}/pages/1/image")
    page = http.get(f"{PATH}/{state['id']}/pages/1").json()
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.size == (page["width"], page["height"])


def test_an_encrypted_pdf_needs_its_password(http: httpx.Client, word: str) -> None:
    file = io.BytesIO()
    with pikepdf.open(io.BytesIO(pdf(1))) as document:
        document.save(file, encryption=pikepdf.Encryption(owner="o", user="secret"))
    state = ended(http, send(http, file.getvalue(), "locked.pdf"))
    assert state["status"] == "failed"
    assert state["error"].startswith("locked.pdf cannot be opened (it is encrypted)")
    opened = ended(http, send(http, file.getvalue(), password="secret"))
    assert opened["status"] == "done"
    assert http.get(f"{PATH}/{opened['id']}", params={"format": "pdf"}).status_code == 200


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\temp\\scan.pdf", "scan.pdf"),
        ("..", "document"),
        ("a\x00b\r\nSet-Cookie: x.pdf", "abSet-Cookie: x.pdf"),
        ("发票.pdf", "发票.pdf"),
    ],
)
def test_a_name_is_a_name_and_no_path(name: str, shown: str, http: httpx.Client, server: Started) -> None:
    body = {"document": base64.b64encode(WORD.read_bytes()).decode(), "name": name}
    state = ended(http, http.post(PATH, json=body))
    assert state["name"] == shown
    answer = http.get(f"{PATH}/{state['id']}", params={"format": "json"})
    assert answer.status_code == 200
    assert answer.json()["results"][0]["image"] == shown
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("content", "fields", "param"),
    [
        (b"", {}, "document"),
        (b"no document", {}, "document"),
        (WORD.read_bytes(), {"pages": "0"}, "pages"),
        (WORD.read_bytes(), {"pages": "9" * 500}, "pages"),
        (WORD.read_bytes(), {"dpi": "1e9"}, "dpi"),
        (WORD.read_bytes(), {"layout": "spiral"}, "layout"),
        (WORD.read_bytes(), {"preset": "/etc/passwd"}, "preset"),
        (WORD.read_bytes(), {"format": "docx"}, "format"),
        (WORD.read_bytes(), {"unknown": "1"}, "unknown"),
    ],
)
def test_what_cannot_be_read_is_refused(content: bytes, fields: Any, param: str, http: httpx.Client) -> None:
    answer = send(http, content, **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_pdf_that_is_damaged_fails_without_a_path_of_the_server(http: httpx.Client, server: Started) -> None:
    state = ended(http, send(http, b"%PDF-1.4 nonsense", "bad.pdf"))
    assert state["status"] == "failed"
    assert state["error"].startswith("bad.pdf ")
    assert state["error_code"] == "pdf_damaged"
    assert "doc-" not in state["error"]


def test_an_image_of_many_pixels_is_refused(model: Qwen2VLModel) -> None:
    with started(model, max_image_pixels=1000) as server:
        answer = httpx.post(server.url + PATH, files={"file": ("a.png", WORD.read_bytes())})
    assert answer.status_code == 413


def test_a_document_of_too_many_pages_is_not_read(model: Qwen2VLModel) -> None:
    with started(model, document_pages=2) as server, httpx.Client(base_url=server.url) as http:
        state = ended(http, send(http, pdf(3)))
        assert (state["status"], state["pages_read"], state["error_code"]) == ("failed", 0, "too_many_pages")
        assert ended(http, send(http, pdf(3), pages="1-2"))["status"] == "done"


def test_a_document_that_is_cancelled_keeps_what_was_read(server: Started, http: httpx.Client) -> None:
    with httpx.stream("POST", server.url + PATH, files={"file": ("a.pdf", pdf(300))}, data={"dpi": "72"}) as answer:
        document = json.loads(answer.read())
    place = f"{PATH}/{document['id']}"
    until(lambda: http.get(place).json()["pages_read"] > 0)
    assert http.get(place, params={"format": "text"}).status_code == 409
    assert http.post(f"{place}/cancel").json()["status"] == "cancelled"
    until(lambda: http.get(place).json()["expires_at"])
    state = http.get(place).json()
    assert 0 < state["pages_read"] < 300
    assert http.get(place, params={"format": "text"}).status_code == 200
    assert http.delete(place).status_code == 204
    assert http.get(place).status_code == 404


def test_a_client_that_leaves_its_stream_ends_the_reading(server: Started, http: httpx.Client, model: Qwen2VLModel) -> None:
    fields = {"dpi": "72", "stream": "true"}
    with httpx.stream("POST", server.url + PATH, files={"file": ("a.pdf", pdf(300))}, data=fields, timeout=60) as answer:
        lines = answer.iter_lines()
        while not next(lines).startswith("id: "):
            pass
    until(lambda: documents(server.url)["reading"] == 0)
    assert documents(server.url)["cancelled"] >= 1
    until(lambda: model.scheduler.stats()["running"] == 0)


def test_documents_are_gone_when_their_time_has_passed(model: Qwen2VLModel, tmp_path: Path) -> None:
    with started(model, document_keep_seconds=0.2, documents=tmp_path) as server, httpx.Client(base_url=server.url) as http:
        sent = send(http, WORD.read_bytes())
        until(lambda: http.get(f"{PATH}/{sent.json()['id']}").status_code == 404)
        until(lambda: not list(tmp_path.iterdir()))


def test_the_oldest_make_room_and_nothing_is_kept_beyond_the_quota(model: Qwen2VLModel, tmp_path: Path) -> None:
    content = WORD.read_bytes()
    with (
        started(model, document_quota_bytes=3 * len(content) + 8000, documents=tmp_path) as server,
        httpx.Client(base_url=server.url) as http,
    ):
        assert send(http, b"%PDF-" + b" " * 20_000).status_code == 413
        ids = [ended(http, send(http, content))["id"] for _ in range(16)]
        there = [http.get(f"{PATH}/{one}").status_code for one in ids]
        assert there[0] == 404
        assert there[-1] == 200
        assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < 3 * len(content) + 8000
    assert not list(tmp_path.iterdir())  # the server is gone, and with it what it kept


def test_a_document_belongs_to_the_key_that_sent_it(model: Qwen2VLModel) -> None:
    keys = ("the-first-key-of-two", "the-second-key-of-two")
    first, second = ({"Authorization": f"Bearer {key}"} for key in keys)
    with started(model, keys=ApiKeys(keys)) as server, httpx.Client(base_url=server.url) as http:
        sent = http.post(PATH, files={"file": ("a.png", WORD.read_bytes())}, headers=first)
        place = f"{PATH}/{sent.json()['id']}"
        assert http.get(place, headers=first).status_code == 200
        for method, path in (("GET", place), ("DELETE", place), ("POST", f"{place}/cancel"), ("GET", f"{place}/events")):
            assert http.request(method, path, headers=second).status_code == 404
            assert http.request(method, path).status_code == 401


def test_more_documents_than_may_wait_are_refused(model: Qwen2VLModel) -> None:
    with started(model, documents_waiting=1) as server, httpx.Client(base_url=server.url, timeout=60) as http:
        sent = [send(http, pdf(100)) for _ in range(4)]
        assert [answer.status_code for answer in sent][-1] == 429
        assert int(sent[-1].headers["Retry-After"]) > 0
        for answer in sent:
            if answer.status_code == 202:
                http.delete(f"{PATH}/{answer.json()['id']}")


def test_blocks_that_the_model_finds_come_as_those_of_the_command_line(http: httpx.Client) -> None:
    content = (ROOT / "examples" / "scan.jpg").read_bytes()
    how = {"layout": "model", "preset": "mineru", "skip_furniture": "true"}
    answer = send(http, content, "scan.jpg", **how, format="json")  # comes when it has been read
    [result] = answer.json()["results"]
    assert (result["error"], result["pages"][0]["layout"]) == (None, "model")
    assert "Harbour Office Supplies" in result["text"]


def test_lines_of_a_page_have_boxes_and_confidences(http: httpx.Client) -> None:
    content = (ROOT / "examples" / "invoice.png").read_bytes()
    state = ended(http, send(http, content, "invoice.png", layout="lines"))
    page = http.get(f"{PATH}/{state['id']}/pages/1").json()
    lines = [line for block in page["blocks"] for line in block["lines"]]
    assert len(lines) > 10
    assert all(0 <= line["confidence"] <= 1 and line["box"][0] < line["box"][2] <= page["width"] for line in lines)
    assert "Harbour Office Supplies" in page["text"]
    text = http.get("/metrics").text
    assert 'mindnlp_ocr:documents{engine="0",model_name="qwen2vl-ocr-tiny",state="done"}' in text
    assert 'mindnlp_ocr:pages_total{engine="0",model_name="qwen2vl-ocr-tiny",outcome="read"}' in text
