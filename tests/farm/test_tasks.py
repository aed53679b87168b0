"""Documents to tasks, tasks to files: all of a farm but Ray."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from mindnlp_ocr.documents.result import Page
from mindnlp_ocr.documents.schema import PageResult
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.farm.command import farm_settings
from mindnlp_ocr.farm.inputs import documents
from mindnlp_ocr.farm.options import parser
from mindnlp_ocr.farm.parts import Row, decode, encode
from mindnlp_ocr.farm.plan import CHUNK, add_documents, make_plan, read_plan
from mindnlp_ocr.farm.run import check_settings
from mindnlp_ocr.farm.settings import FOLDER
from mindnlp_ocr.farm.started import DEATHS, Started
from mindnlp_ocr.farm.store import Store
from tests.conftest import ROOT
from tests.farm.fakes import tiff
from tests.farm.one_process import contents, farm, rows, settings_of, texts


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Documents of 1, 5 and 2 pages, and one that is none."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for name, pages in (("a", 1), ("b", 5), ("d", 2)):
        tiff(tmp_path / "in" / f"{name}.tif", pages)
    (tmp_path / "in" / "c.pdf").write_bytes(b"no PDF")
    return tmp_path


# The plan


def test_large_documents_are_split_small_ones_share_a_task_and_every_page_is_in_one(folder: Path) -> None:
    settings, _ = settings_of("in", "--output", "out", "--pages-per-task", 3, "--pages", "1-4")
    store = Store("out")
    assert add_documents(store, documents(["in"]), settings) == 1
    names = ["in/a.tif", "in/b.tif", "in/c.pdf", "in/d.tif"]
    found = json.loads(store.read(f"{FOLDER}/documents/000000.json"))
    assert [document["name"] for document in found] == names
    plan = make_plan([], settings, lambda documents: [])
    assert plan.tasks == ()
    farm("in", "--output", "out", "--pages-per-task", 3, "--pages", "1-4")
    plan = read_plan(store, 0)
    ranges = [[(item.document, item.start, item.stop) for item in task] for task in plan.tasks]
    assert ranges == [[(0, 0, 1), (1, 0, 2)], [(1, 2, 4), (2, 0, 0)], [(3, 0, 2)]]
    expected = ["in/a.tif 0", *(f"in/b.tif {page}" for page in range(4)), "", "in/d.tif 0", "in/d.tif 1"]
    assert [text if "c.pdf" not in text else "" for text in texts(rows("out"))] == expected


def test_documents_are_planned_in_chunks_and_those_that_come_later_are_added(folder: Path) -> None:
    settings, _ = settings_of("in", "--output", "out")
    names = [f"x{number}.tif" for number in range(CHUNK + 1)]
    assert add_documents(Store("out"), names, settings) == 2
    assert add_documents(Store("out"), names, settings) == 2
    assert add_documents(Store("out"), [*names, "y.tif", names[0]], settings) == 3
    assert [document["name"] for document in json.loads(Store("out").read(f"{FOLDER}/documents/000002.json"))] == ["y.tif"]


def test_a_document_without_selected_pages_says_so(folder: Path) -> None:
    (account,) = farm("in/a.tif", "--output", "out", "--pages", "3")
    assert account.failures[0]["error_code"] == "pages_out_of_range"


# What a user names


def test_lists_and_references_name_documents(folder: Path) -> None:
    Path("names.txt").write_text("in/a.tif\n\nin/b.tif\n", encoding="utf-8")
    Path("refs.jsonl").write_text('{"uri": "in/c.pdf"}\n{"path": "in/a.tif", "x": 1}\n', encoding="utf-8")
    parquet.write_table(pa.table({"x": [1, 2], "path": ["in/d.tif", "in/a.tif"]}), "refs.parquet")
    given = ["names.txt", "refs.jsonl", "refs.parquet", "in/*.pdf", f"file://{folder}/in/b.tif"]
    expected = ["in/a.tif", "in/b.tif", "in/c.pdf", "in/a.tif", "in/d.tif", "in/a.tif", "in/c.pdf", f"{folder}/in/b.tif"]
    assert list(documents(given)) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("refs.jsonl", b'{"name": "a"}\n', "line 1 of refs.jsonl is not a reference: use a line such as"),
        ("refs.parquet", b"nothing", "refs.parquet is not a Parquet file"),
        ("names.txt", None, "the list names.txt cannot be read"),
        ("other.parquet", "x", "other.parquet has no column path or uri, only x: rename one"),
    ],
)
def test_lists_that_cannot_be_read_are_refused(folder: Path, name: str, content: bytes | str | None, message: str) -> None:
    if isinstance(content, bytes):
        Path(name).write_bytes(content)
    elif content is not None:
        parquet.write_table(pa.table({content: [1]}), name)
    with pytest.raises(SetupError, match=message):
        list(documents([name]))


# What is written


def test_a_row_holds_the_page_of_the_json_formats_without_timings_and_comes_back_as_it_was() -> None:
    page = Page(number=3, width=2, height=2, dpi=72.0, timings_ms={"x": 1.0}, warnings=("odd",))
    content = encode([Row("a", page), Row("b\udcff", None, "missing", "file_missing")])
    table = parquet.read_table(io.BytesIO(content)).to_pylist()
    bare = page.model_copy(update={"timings_ms": {}})
    row = {
        "path": "a",
        "page": 3,
        "text": "",
        "error": None,
        "error_code": None,
        "json": PageResult.of(bare).model_dump_json(),
    }
    assert table == [
        row,
        {"path": "b?", "page": None, "text": None, "error": "missing", "error_code": "file_missing", "json": None},
    ]
    assert [row.page for row in decode(content)] == [bare, None]


def test_a_run_that_was_cut_off_anywhere_goes_on_to_the_same_bytes(folder: Path) -> None:
    argv = ("in", "--pages-per-task", 2, "--format", "jsonl")
    farm(*argv, "--output", "whole")
    whole = contents(folder / "whole")
    first = tuple(f"{FOLDER}/{name}" for name in ("documents", "failed"))  # which are there before what is cut off
    names = [name for name in whole if not name.startswith(first)]
    assert len(names) == 9
    for cut in range(len(names)):
        farm(*argv, "--output", "cut")
        for name in names[cut::3]:
            (folder / "cut" / name).unlink()
        farm(*argv, "--output", "cut")
        assert contents(folder / "cut") == whole
        assert farm(*argv, "--output", "cut") == []


def test_documents_that_would_share_a_file_with_those_of_before_are_refused(folder: Path) -> None:
    farm("in/a.tif", "--output", "out", "--format", "text")
    Path("more").mkdir()
    tiff(folder / "more" / "a.tif", 1)
    with pytest.raises(SetupError, match=r"a.txt contains the text of .*in/a.tif, but more/a.tif would be written to it"):
        farm("more/a.tif", "--output", "out", "--format", "text")


# What ends a process


def test_a_page_that_ended_its_process_is_read_alone_and_reported_with_the_signal(folder: Path) -> None:
    argv = ("in/b.tif", "--output", "out", "--prompt", "crash b.tif:2 refuse b.tif:3")
    script = "import sys; from tests.farm.one_process import farm; farm(*sys.argv[1:])"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", script, *argv], env=environment, stderr=subprocess.DEVNULL, check=False)
    assert ended.returncode == -signal.SIGSEGV
    (account,) = farm(*argv)
    remedy = "leave the page out, or give its reader more memory"
    crash = f"SIGSEGV ended the process that worked only on this page, 2 times: {remedy}"
    good = [f"in/b.tif {index}" for index in range(5)]
    assert texts(rows("out")) == [*good[:2], crash, "refused: use another", good[4]]
    assert [failure["page"] for failure in account.failures] == [3, 4]
    assert farm(*argv) == []


def test_a_fault_that_is_no_pages_own_is_narrowed_down_to_its_page(folder: Path) -> None:
    (account,) = farm("in/b.tif", "in/a.tif", "--output", "out", "--prompt", "raise b.tif:1")
    assert [failure["page"] for failure in account.failures] == [2]
    assert account.failures[0]["error"].startswith("ValueError: nothing that a page should do: ")
    assert account.failures[0]["error_code"] == "internal_error"


def test_a_model_that_cannot_be_loaded_stops_the_farm(folder: Path) -> None:
    (account,) = farm("in/b.tif", "--output", "out", "--prompt", "no model")
    assert account.stop == "there is no model: give one"


def test_an_item_within_which_actor_after_actor_ends_is_given_up_but_not_where_the_whole_run_was_ended(folder: Path) -> None:
    store = Store("out")
    assert not Started(store, "x", "run 1").begin()
    for _ in range(DEATHS):
        started = Started(store, "x", "run 1")
        assert started.begin()
        assert started.given_up == {}
        started.at(3)
        started.at(4)
    started = Started(store, "x", "run 1")
    assert started.begin()
    assert list(started.given_up) == [4]
    other = Started(store, "x", "run 2")
    assert other.begin()
    assert other.given_up == {}
    other.end()
    assert not Started(store, "x", "run 2").begin()


# Settings


@pytest.mark.parametrize("options", [["--preset", "plain"], ["--preset", "mine.yaml"], ["--skip-furniture"]])
def test_another_way_of_reading_does_not_go_on_with_an_output(folder: Path, options: list[str]) -> None:
    def decisive(*more: str) -> dict[str, object]:
        return farm_settings(parser().parse_args(["in", "--output", "out", *more])).decisive()

    assert decisive(*options) != decisive()
    assert decisive("--preset", "plain")["preset"] == "plain"
    assert decisive("--preset", "mine.yaml")["preset"] == str(folder / "mine.yaml")  # actors run in other folders


def test_a_preset_whose_file_has_changed_does_not_go_on_with_an_output(folder: Path) -> None:
    settings, _ = settings_of("in", "--output", "out", "--preset", "mine.yaml")
    (folder / "mine.yaml").write_text("layout: page\n", encoding="utf-8")
    store = Store("out")
    check_settings(store, settings)
    check_settings(store, settings)
    (folder / "mine.yaml").write_text("layout: lines\n", encoding="utf-8")
    with pytest.raises(SetupError, match=r"out was started with the content of its preset \w{64}, but the content of"):
        check_settings(store, settings)
