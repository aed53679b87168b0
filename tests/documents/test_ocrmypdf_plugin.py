"""Tests of the OCRmyPDF plugin with a stub reader that recognises pages by their brightness."""

import importlib.metadata
import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, ClassVar

import pypdfium2
import pytest
from PIL import Image

from mindnlp_ocr import __version__
from mindnlp_ocr.documents.result import Line, Page
from mindnlp_ocr.errors import SetupError
from tests.documents.writers.pages import block, line, turned

ocrmypdf = pytest.importorskip("ocrmypdf", reason="the extra ocrmypdf is not installed")
from mindnlp_ocr.documents import ocrmypdf_plugin as plugin  # noqa: E402 - it imports OCRmyPDF

RELEASE = int(ocrmypdf.__version__.split(".")[0])
NAME = "mindnlp_ocr.documents.ocrmypdf_plugin"
TEXTS = {200: "The first page", 150: "第二页 in Chinese", 100: "and the third"}


class StandIn:
    """Reads the shade of a page."""

    loaded: ClassVar[list[plugin.Choice]] = []
    threads: ClassVar[set[tuple[int, int]]] = set()

    def read_image(self, image: Image.Image, number: int = 1, dpi: float | None = None) -> Page:
        self.threads.add((os.getpid(), threading.get_ident()))
        shade = image.getpixel((5, 5))[0]
        if shade < 50:
            return Page(number=number, error="too dark", warnings=("It is dark.",))
        text = TEXTS[min(TEXTS, key=lambda known: abs(known - shade))]
        return Page(
            number=number,
            width=image.width,
            height=image.height,
            dpi=dpi,
            blocks=(block(line(text, confidence=0.9)), side()),
        )


def side() -> Any:
    corners = turned()
    return block(Line(text="up the margin", box=corners.box, polygon=corners.polygon, confidence=0.5))


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    def load(choice: plugin.Choice) -> StandIn:
        StandIn.loaded.append(choice)
        return StandIn()

    plugin._begin_anew()
    monkeypatch.setattr(StandIn, "loaded", [])
    monkeypatch.setattr(StandIn, "threads", set())
    monkeypatch.setattr(plugin, "load", load)
    return StandIn


def scan(path: Path, *shades: int) -> Path:
    pages = [Image.new("L", (800, 600), shade) for shade in shades]
    pages[0].save(path, "PDF", resolution=100, save_all=True, append_images=pages[1:])
    return path


def ocr(source: Path, **options: Any) -> Path:
    """Let OCRmyPDF read a file. Release 16 initializes plugins for its command line only."""
    target = source.with_name("out.pdf")
    if RELEASE >= 17:
        options["plugins"] = [NAME]
    else:
        manager = options["plugin_manager"] = ocrmypdf.api.get_plugin_manager([NAME])
        manager.hook.initialize(plugin_manager=manager)
    chosen = {"progress_bar": False, "output_type": "pdf", "optimize": 0, **options}
    assert ocrmypdf.ocr(source, target, **chosen) == 0
    return target


def run(source: Path, **options: Any) -> list[str]:
    """What OCRmyPDF makes of a file, as text."""
    with pypdfium2.PdfDocument(ocr(source, **options)) as document:
        return [" ".join(one.get_textpage().get_text_range().split()) for one in document]


PDFA = pytest.param(
    {"output_type": "pdfa"},
    marks=pytest.mark.skipif(
        shutil.which("gs") is None,
        reason="OCRmyPDF wants Ghostscript for PDF/A: apt-get install ghostscript",
    ),
)


OTHER = {"pdf_renderer": "fpdf2" if RELEASE >= 17 else "hocr"}


@pytest.mark.parametrize("options", [{}, OTHER, PDFA])
def test_every_page_gets_its_text_from_one_reader_in_one_thread(
    tmp_path: Path, options: dict[str, str], stand_in: type[StandIn]
) -> None:
    with pypdfium2.PdfDocument(ocr(scan(tmp_path / "in.pdf", *TEXTS), jobs=3, **options)) as document:
        found = ["".join(one.get_textpage().get_text_range().split()) for one in document]
    expected = [f"{text}up the margin".replace(" ", "") for text in TEXTS.values()]
    assert found == expected
    assert stand_in.loaded == [plugin.Choice(None, "cpu")]
    assert len(stand_in.threads) == 1


@pytest.mark.skipif(RELEASE < 17, reason="ocrmypdf.ocr() of release 16 always takes threads")
def test_worker_processes_have_readers_of_their_own(tmp_path: Path, stand_in: type[StandIn]) -> None:
    found = run(scan(tmp_path / "in.pdf", *TEXTS), jobs=2, use_threads=False)
    assert [text.removesuffix(" up the margin") for text in found] == list(TEXTS.values())
    assert stand_in.loaded == []  # none was loaded here, before the fork or after


def test_the_text_beside_the_pdf(tmp_path: Path) -> None:
    run(scan(tmp_path / "in.pdf", 150), sidecar=tmp_path / "out.txt")
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == "第二页 in Chinese\n\nup the margin"


def test_a_page_that_cannot_be_read_stops_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, NAME):
        found = run(scan(tmp_path / "in.pdf", 10, 100))
    assert found == ["", "and the third up the margin"]
    assert [record.message for record in caplog.records if record.name == NAME] == ["It is dark.", "too dark"]


def test_options_choose_the_model_and_the_device(tmp_path: Path, stand_in: type[StandIn]) -> None:
    run(scan(tmp_path / "in.pdf", 100), mindnlp_model="some/folder", mindnlp_device="npu:0")
    assert stand_in.loaded == [plugin.Choice("some/folder", "npu:0")]


def test_a_model_that_cannot_be_used_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(choice: plugin.Choice) -> StandIn:
        raise SetupError(f"{choice.model} is missing: pass a folder")

    monkeypatch.setattr(plugin, "load", load)
    with pytest.raises(ocrmypdf.exceptions.BadArgsError, match="some/folder is missing: pass a folder"):
        run(scan(tmp_path / "in.pdf", 100), mindnlp_model="some/folder")


@pytest.mark.skipif(RELEASE < 17, reason="OCRmyPDF 16 has no --ocr-engine")
def test_another_engine_can_still_be_asked_for(tmp_path: Path, stand_in: type[StandIn]) -> None:
    assert run(scan(tmp_path / "in.pdf", 100), ocr_engine="none") == [""]
    assert stand_in.loaded == []


def test_the_engine_names_itself() -> None:
    engine = plugin.MindNLPEngine()
    assert (str(engine), engine.version()) == (f"mindnlp-ocr {__version__}", __version__)
    assert engine.creator_tag(None) == f"mindnlp-ocr {__version__}"
    assert engine.get_orientation(Path("x"), None) == (0, 0.0)


@pytest.mark.parametrize(("found", "left"), [(None, 0), ("/usr/bin/tesseract", 1)])
def test_tesseract_is_checked_for_only_where_it_is(monkeypatch: pytest.MonkeyPatch, found: str | None, left: int) -> None:
    monkeypatch.setattr(plugin.shutil, "which", lambda name: found)
    made = ocrmypdf.api.get_plugin_manager([NAME])
    manager = getattr(made, "pluggy_manager", made)
    manager.hook.initialize(plugin_manager=manager)
    asked = {"options": None} if RELEASE >= 17 else {}
    checks = [check.plugin_name for check in manager.hook.check_options.get_hookimpls()]
    assert checks.count("ocrmypdf.builtin_plugins.tesseract_ocr") == left
    assert isinstance(manager.hook.get_ocr_engine(**asked), plugin.MindNLPEngine)


def test_loading_the_plugin_loads_no_mindspore() -> None:
    code = f"import sys, {NAME}; print(sorted({{'mindspore', 'rapidocr'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_ocrmypdf_keeps_its_own_engine_where_ours_is_not_asked_for() -> None:
    assert NAME not in {point.value for point in importlib.metadata.entry_points(group="ocrmypdf")}
