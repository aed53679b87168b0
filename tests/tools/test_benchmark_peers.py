"""tools/benchmark_peers.py: engines that are stubs, in time, tokens and text; one that dies; peers that are not here."""

import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mindnlp_ocr.bench.peers import Peers, Reading, rows
from mindnlp_ocr.bench.results import Results
from tests.conftest import ROOT
from tests.tools.conftest import Tool

# Its arguments: text, milliseconds of a page, tokens of the prompt (0: an OCR engine), token ids, and what happens at "bad".
STUB = """
import json, sys
text, page_ms, prompt, tokens, at_bad = sys.argv[1:]
for line in sys.stdin:
    if "bad" in line and at_bad == "die":
        print("loading\\nOSError: no such model", file=sys.stderr)
        sys.exit(3)
    if "bad" in line and at_bad == "refuse":
        print(json.dumps({"error": "ValueError: no page"}), flush=True)
        continue
    llm = int(prompt) > 0
    answer = {"text": text, "page_ms": float(page_ms), "first_token_ms": 2.0 if llm else None, "per_token_ms": None}
    answer |= {"prompt_tokens": int(prompt) or None, "token_ids": json.loads(tokens) if llm else None}
    print(json.dumps(answer), flush=True)
print(json.dumps({"peak_mb": 7.5, "version": "stub 1"}), flush=True)
"""
OPENVINO = ("--openvino-python", sys.executable, "--openvino-model")


@pytest.fixture
def stub(tmp_path: Path) -> Callable[..., list[str]]:
    """How an engine is started that always answers alike."""
    path = tmp_path / "stub.py"
    path.write_text(STUB, encoding="utf-8")

    def command(text: str, page_ms: float, prompt: int = 5, tokens: str = "[1, 2]", at_bad: str = "go on") -> list[str]:
        return [sys.executable, str(path), text, str(page_ms), str(prompt), tokens, at_bad]

    return command


def reading(page_ms: float, tokens: Sequence[int] | None = (1, 2), text: str = "ab") -> Reading:
    times = dict.fromkeys(("first_token_ms", "per_token_ms"), None if tokens is None else page_ms / 10)
    ids: dict[str, Any] = {"token_ids": None if tokens is None else list(tokens), "prompt_tokens": tokens and 5}
    return {"page_ms": page_ms, "text": text, **times, **ids}


def test_medians_leave_out_the_first_reading_and_ratios_are_of_ours() -> None:
    readings = {
        "ours": [reading(ms) for ms in (1000, 10, 30, 20)],
        "peer": [reading(ms, (1, 3), "a b") for ms in (9, 50, 40, 30)],
        "ocr": [reading(ms, None, "axb") for ms in (9, 5, 5, 500)],
        "gone": [],
    }
    ours, peer, ocr, gone = rows("scans/a.png", "ab", readings)
    times = {"page_ms": 20, "ratio": 1, "first_token_ms": 2, "per_token_ms": 2}
    assert ours == {"page": "a.png", "engine": "ours", **times, "same_tokens": None, "cer_percent": 0}
    times = {"page_ms": 40, "ratio": 2, "first_token_ms": 4, "per_token_ms": 4}
    assert peer == {"page": "a.png", "engine": "peer", **times, "same_tokens": False, "cer_percent": 0}
    nothing = {"first_token_ms": None, "per_token_ms": None, "same_tokens": None}
    assert ocr == {"page": "a.png", "engine": "ocr", "page_ms": 5, "ratio": 0.25, **nothing, "cer_percent": 50}
    assert gone == {"page": "a.png", "engine": "gone", "page_ms": None, "ratio": None, **nothing, "cer_percent": None}
    assert [row["cer_percent"] for row in rows("a.png", None, readings)] == [None] * 4
    assert [row["ratio"] for row in rows("a.png", None, {"ours": [], "peer": readings["peer"]})] == [None, None]


def test_totals_are_of_all_pages_with_memory_and_version(stub: Callable[..., list[str]]) -> None:
    peers = Peers({"ours": stub("abcd", 10), "ocr": stub("abc", 30, prompt=0)})
    measured = [row for truth in ("abcd", "abcdefgh", None) for row in peers.compare("a.png", truth, 1)]
    assert [row["cer_percent"] for row in measured] == [0, 25, 50, 62.5, None, None]
    compared, about = {"compared_pages": 3}, {"peak_mb": 7.5, "version": "stub 1"}
    assert list(peers.totals()) == [
        {"engine": "ours", "cer_percent": 100 * 4 / 12, **compared, "median_ratio": 1, **about},
        {"engine": "ocr", "cer_percent": 100 * 6 / 12, **compared, "median_ratio": 3, **about},
    ]
    assert peers.failures == []


def test_one_that_dies_says_why_and_one_that_refuses_a_page_goes_on(
    stub: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = {"ours": stub("ab", 10), "dies": stub("ab", 10, at_bad="die"), "refuses": stub("ab", 20, at_bad="refuse")}
    peers = Peers({**commands, "missing": [str(tmp_path / "no python")]})
    for page in ("a.png", "bad.png", "b.png"):
        measured = {row["engine"]: row["ratio"] for row in peers.compare(page, "ab", 1)}
        assert measured == {
            "ours": 1,
            "dies": 1 if page == "a.png" else None,
            "refuses": None if page == "bad.png" else 2,
            "missing": None,
        }
    columns = ("cer_percent", "compared_pages", "median_ratio", "peak_mb")
    assert {row["engine"]: tuple(row[column] for column in columns) for row in peers.totals()} == {
        "ours": (0, 3, 1, 7.5),
        "dies": (None, 1, 1, None),
        "refuses": (None, 2, 2, 7.5),
        "missing": (None, 0, None, None),
    }
    assert peers.failures == [
        f"missing: {tmp_path / 'no python'} cannot be started (No such file or directory)",
        "dies: its process ended with exit status 3 after this output:\n    loading\n    OSError: no such model",
        "refuses: bad.png could not be read: ValueError: no page",
    ]
    assert capsys.readouterr().err == "".join(f"error: {failure}\n" for failure in peers.failures)


def test_times_of_prompts_that_differ_in_length_are_not_compared_but_texts_are(stub: Callable[..., list[str]]) -> None:
    peers = Peers({"ours": stub("ab", 10), "peer": stub("ac", 20, prompt=6)})
    columns = ("page_ms", "ratio", "same_tokens", "cer_percent")
    measured = [tuple(row[column] for column in columns) for row in peers.compare("a.png", "ab", 1)]
    assert measured == [(10, 1, None, 0), (20, None, True, 50)]
    assert [row["compared_pages"] for row in peers.totals()] == [1, 0]
    assert peers.failures == []


def test_what_runs_in_foreign_environments_imports_nothing_of_ours() -> None:
    readers = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "tools" / "peers").glob("*.py")}
    importing = {name for name, text in readers.items() if re.search(r"(from|import) mindnlp_ocr", text)}
    assert len(readers) == 11
    assert importing == {"ours_reader", "mindnlp_reader", "shapes_reader"}


# The command line


@pytest.fixture
def run(tool: Tool) -> Tool:
    return partial(tool, "benchmark_peers")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--peers", "easyocr"], "--peers contains easyocr: use transformers, openvino, tesseract, rapidocr or none"),
        (["--peer-python", "no/python"], "transformers: no/python is missing: --help starts with the commands"),
        (
            ["--peers", "tesseract"],
            "tesseract: no tesseract on PATH: run `apt-get install tesseract-ocr tesseract-ocr-chi-sim`",
        ),
        (
            ["--openvino-python", sys.executable, "--openvino-model", "tests"],
            "openvino: tests is not an export: --help starts with",
        ),
        (
            ["--openvino-python", sys.executable, "--openvino-model", "ir:int4"],
            "--openvino-model ir:int4: 'int4' is not one of",
        ),
    ],
)
def test_a_peer_that_is_asked_for_and_not_here_exits_2_with_how_to_get_it(
    run: Tool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setenv("PATH", "")
    assert run("--smoke", *arguments) == 2
    assert f"error: {message}" in capsys.readouterr().err


def test_tesseract_without_chinese_is_not_here(
    run: Tool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tesseract").write_text("#!/bin/sh\necho 'List of available languages (1):'\necho eng\n", encoding="utf-8")
    (tmp_path / "tesseract").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run("--smoke", "--peers", "tesseract") == 2
    assert "error: tesseract: tesseract has no chi_sim: run `apt-get install" in capsys.readouterr().err


def test_ours_beside_a_peer_that_dies_and_those_that_are_absent(
    run: Tool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a tree of its own, where no environment of a peer is; OpenVINO is not installed in ours, RapidOCR is."""
    monkeypatch.setenv("PATH", "")
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    (tmp_path / "ir").mkdir()
    (tmp_path / "ir" / "openvino_language_model.xml").touch()
    status = run("--smoke", *OPENVINO, tmp_path / "ir", "--output", tmp_path / "a.json", root=tmp_path)
    printed = capsys.readouterr()
    assert status == 1
    assert "transformers is skipped: .venv-reference/bin/python is missing: --help starts with the" in printed.err
    assert "tesseract is skipped: no tesseract on PATH: run `apt-get" in printed.err
    assert "error: openvino ir:f32: its process ended with exit status 1 after this output:\n" in printed.err
    assert "    ModuleNotFoundError: No module named 'openvino'\n" in printed.err
    results = Results.load(tmp_path / "a.json")
    assert results.smoke
    ours, openvino, rapidocr = results.sections["pages"].rows
    assert (ours["page"], ours["engine"], ours["ratio"], ours["cer_percent"]) == ("word_56x56.png", "ours", 1, 0)
    assert (openvino["engine"], openvino["page_ms"], openvino["cer_percent"]) == ("openvino ir:f32", None, None)
    assert (rapidocr["engine"], rapidocr["cer_percent"]) == ("rapidocr", 0)
    assert str(results.row("totals", engine="rapidocr")["version"]).startswith("rapidocr 3.")
    assert str(results.row("totals", engine="ours")["version"]).startswith("mindnlp-ocr 0.")
