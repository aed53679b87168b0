"""The web page: its files, and what a user does with it in a Chromium, where one and Playwright are installed."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
from mindnlp_ocr.server.app import WEB
from mindnlp_ocr.server.config import ApiKeys
from tests.conftest import ROOT
from tests.server.started import Started, documents, started, until

INVOICE = ROOT / "examples" / "invoice.png"
CHROMIUM = shutil.which("chromium")


def test_the_page_loads_nothing_from_elsewhere(http: httpx.Client) -> None:
    answer = http.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    for name in re.findall(r'(?:src|href)="([^"]+)"', answer.text):
        assert name == "data:," or http.get(f"/{name}").status_code == 200
    for file in WEB.iterdir():
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", file.read_text(encoding="utf-8"))


def test_both_languages_have_all_texts() -> None:
    script = (WEB / "app.js").read_text(encoding="utf-8")
    english, chinese = (
        set(re.findall(r"(\w+): \"", part)) for part in re.findall(r"^  (?:en|zh): \{\n(.*?)^  \},", script, re.M | re.S)
    )
    assert english == chinese
    used = set(re.findall(r'data-text="(\w+)"', (WEB / "index.html").read_text(encoding="utf-8")))
    assert used <= english
    assert len(used) > 15


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(model: Qwen2VLModel) -> Iterator[Started]:
    with started(model) as running:
        yield running


@pytest.fixture
def page(browser: Any, server: Started) -> Iterator[Any]:
    context = browser.new_context(locale="en-GB", viewport={"width": 1200, "height": 900})
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.goto(server.url)
    yield page
    context.close()
    assert not faults


def read(page: Any, file: Path = INVOICE, layout: str = "lines") -> None:
    page.select_option("#layout", layout)
    page.set_input_files("#file", str(file))
    page.wait_for_selector("#actions:not([hidden])", timeout=60_000)


def test_a_document_is_shown_with_its_lines(page: Any) -> None:
    read(page)
    assert "Harbour Office Supplies" in page.locator(".words").inner_text()
    lines, boxes = page.locator(".line"), page.locator("polygon")
    assert lines.count() == boxes.count() > 10
    until(lambda: page.evaluate("document.querySelector('figure img').naturalWidth") > 0)
    lines.nth(2).hover()
    assert "on" in boxes.nth(2).get_attribute("class").split()
    boxes.nth(4).hover()
    assert "on" in lines.nth(4).get_attribute("class").split()
    assert page.locator("polygon.high, polygon.fair, polygon.low").count() == boxes.count()


def test_what_was_read_is_downloaded(page: Any) -> None:
    read(page)
    for name, suffix in (("text", "txt"), ("markdown", "md"), ("json", "json"), ("hocr", "hocr"), ("pdf", "pdf")):
        with page.expect_download() as download:
            page.click(f"[data-format={name}]")
        assert download.value.suggested_filename == f"invoice.{suffix}"
        assert Path(download.value.path()).stat().st_size > 100


def test_it_is_deleted_when_the_user_says_so(page: Any, server: Started) -> None:
    read(page, ROOT / "tests" / "pages" / "word_56x56.png", "page")
    before = sum(documents(server.url).values())
    page.click("#delete")
    page.wait_for_selector("#says:has-text('deleted')")
    assert sum(documents(server.url).values()) == before - 1
    assert page.locator(".paper").count() == 0


def test_why_a_file_is_refused_is_said(page: Any, tmp_path: Path) -> None:
    file = tmp_path / "<img src=x onerror=alert(1)>.pdf"
    file.write_bytes(b"%PDF-1.4 nonsense")
    page.set_input_files("#file", str(file))
    page.wait_for_selector("#says:has-text('damaged')")
    assert page.locator("#says img").count() == 0  # a name is text


def test_it_speaks_chinese_and_is_dark(browser: Any, server: Started) -> None:
    context = browser.new_context(locale="zh-CN", color_scheme="dark", viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.goto(server.url)
    assert page.locator("label.button").inner_text() == "选择文件"
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    page.click("#language")
    assert page.locator("label.button").inner_text() == "Choose a document"
    read(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390  # nothing is wider than a phone
    page.reload()
    assert page.locator("label.button").inner_text() == "Choose a document"
    context.close()


def test_it_works_with_the_keyboard_alone(page: Any) -> None:
    page.focus("#file")
    assert page.evaluate("getComputedStyle(document.querySelector('label.button')).outlineStyle") == "solid"
    read(page)
    page.focus(".line")
    assert "on" in page.locator("polygon").first.get_attribute("class").split()


def test_a_server_with_keys_asks_for_one(browser: Any, model: Qwen2VLModel) -> None:
    key = "a-key-that-is-long-enough"
    with started(model, keys=ApiKeys((key,))) as server:
        page = browser.new_page()
        page.goto(server.url)
        page.wait_for_selector("#key-form:not([hidden])")
        page.fill("#key", key)
        page.keyboard.press("Enter")
        page.wait_for_selector("#key-form", state="hidden")
        read(page)
        assert "Harbour" in page.locator(".words").inner_text()
        page.close()
