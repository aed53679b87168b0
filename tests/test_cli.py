"""The command line: what it prints where, what it writes, and how it exits. Two processes that read, each shared."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mindnlp_ocr.cli import main
from mindnlp_ocr.documents.source import expand
from mindnlp_ocr.documents.stream import DocumentStream, Ended
from mindnlp_ocr.models.qwen2vl import EMBEDDED, Qwen2VLModel
from mindnlp_ocr.ops import native
from tests.conftest import ROOT, case

WORD, LINE = "tests/pages/word_56x56.png", "tests/pages/line_392x28.png"
COMMAND = [sys.executable, "-m", "mindnlp_ocr.cli"]

IMPORTS = """
import json, sys
import mindnlp_ocr
light = "mindspore" not in sys.modules
from mindnlp_ocr.cli import main
status = main(sys.argv[2:])
roots = sorted({name.split(".")[0] for name in sys.modules})
open(sys.argv[1], "w").write(json.dumps({"light": light, "roots": roots}))
sys.exit(status)
"""


def run(*arguments: str, command: list[str] = COMMAND) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, check=False)


# One run as JSON, with a page in the middle that cannot be read


@pytest.fixture(scope="module")
def as_json(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[bytes], str]:
    bad = tmp_path_factory.mktemp("pages") / "broken.png"
    bad.write_bytes((ROOT / WORD).read_bytes()[:100])
    return run(WORD, str(bad), "--image", LINE, "--prompt", "OCR", "--format", "json"), str(bad)


def test_json_is_one_object_and_nothing_else_on_stdout(as_json: tuple[subprocess.CompletedProcess[bytes], str]) -> None:
    output = as_json[0].stdout.decode("utf-8")
    report = json.loads(output)
    assert list(report) == ["schema_version", "results", "model", "cache"]
    keys = {"image", "pages", "text", "error", "error_code", "timings_ms", "doubtful"}
    assert [result.keys() for result in report["results"]] == [keys] * 3
    assert report["model"]["model_name"] == EMBEDDED.name
    assert report["cache"]["total_requests"] == 2


def test_a_bad_page_among_good_ones_exits_1_and_the_others_are_read(
    as_json: tuple[subprocess.CompletedProcess[bytes], str],
) -> None:
    done, bad = as_json
    assert done.returncode == 1
    word, broken, line = json.loads(done.stdout)["results"]
    assert (word["image"], word["text"], word["error"]) == (WORD, case("word_56x56")["text"], None)
    assert {"preprocess", "vision", "prefill", "decode", "total"} <= word["timings_ms"].keys()
    (page,) = word["pages"]
    assert (page["width"], page["height"], page["layout"], page["number"]) == (56, 56, "page", 1)
    assert 0 < page["confidence"] <= 1
    assert (line["image"], line["text"], line["error"]) == (LINE, case("line_392x28")["text"], None)
    reason = broken["error"]
    assert reason.startswith(f"{bad} is truncated or damaged (")
    assert (broken["image"], broken["text"]) == (bad, None)
    assert broken["error_code"] == "image_damaged"
    assert done.stderr.decode() == f"error: {bad}: {reason} [image_damaged]\n"


# One run as text, into a file


@pytest.fixture(scope="module")
def as_text(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[subprocess.CompletedProcess[bytes], Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("output")
    notes = folder / "imports.json"
    prompt = case("line_392x28")["messages"][0]["content"][1]["text"]
    arguments = [str(notes), LINE, WORD, "--prompt", prompt, "--output", str(folder / "pages.txt")]
    done = run(*arguments, command=[sys.executable, "-c", IMPORTS])
    return done, folder / "pages.txt", json.loads(notes.read_text())


def test_output_is_written_whole_and_nothing_is_left_beside_it(
    as_text: tuple[subprocess.CompletedProcess[bytes], Path, dict[str, Any]],
) -> None:
    done, path, _ = as_text
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    line, word = case("line_392x28")["text"], case("word_56x56")["text"]
    assert path.read_bytes() == f"==> {LINE} <==\n{line}\n\n==> {WORD} <==\n{word}\n".encode()
    assert sorted(file.name for file in path.parent.iterdir()) == ["imports.json", "pages.txt"]


def test_reading_a_page_imports_no_mindnlp_torch_or_transformers_and_importing_us_no_mindspore(
    as_text: tuple[subprocess.CompletedProcess[bytes], Path, dict[str, Any]],
) -> None:
    imported = as_text[2]
    assert imported["light"]
    assert "mindspore" in imported["roots"]
    assert not {"mindnlp", "mindtorch", "torch", "torchvision", "transformers", "vllm"} & set(imported["roots"])


# Several at once, with a cache that outlives the run


def test_a_batch_prints_pages_in_their_order_and_the_next_run_reuses_what_it_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    bad = tmp_path / "broken.png"
    bad.write_bytes((ROOT / WORD).read_bytes()[:100])
    pages = [LINE, str(bad), WORD, "tests/pages/small_48x30.png"]
    options = ["--batch-size", "2", "--stats", "--cache-dir", str(cache), "--kv-dtype", "bf16"]
    texts = [case(name)["text"] for name in ("line_392x28", "word_56x56", "small_48x30")]
    expected = "\n".join(f"==> {page} <==\n{text}\n" for page, text in zip(pages, [texts[0], "", *texts[1:]], strict=True))
    for hit_rate in ("0.00%", "100.00%"):
        assert main([*pages, *options]) == 1
        printed = capsys.readouterr()
        assert printed.out == expected
        error, _, stats = printed.err.partition("\n")
        assert error.startswith(f"error: {bad}: {bad} is truncated or damaged (")
        assert json.loads(stats)["hit_rate"] == hit_rate
    assert len(list(cache.glob("*.safetensors"))) == 3


def test_impossible_cache_settings_are_refused_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, WORD, "--batch-size", "0").endswith(" [not_positive]\n")
    assert refused(capsys, WORD, "--cache-size-mb", "-3").endswith(" [not_positive]\n")
    too_small = "error: 1 KV slot of 2048 tokens need 12582912 bytes, but max_cache_size_mb is 8: use at least 12.0, or"
    assert refused(capsys, WORD, "--cache-size-mb", "8").startswith(too_small)
    assert "64 KV slots of 2048 tokens" in refused(capsys, WORD, "--batch-size", "64")


# Wrong usage


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr of a command that exits with 2."""
    try:
        status: Any = main(arguments)
    except SystemExit as exit_:
        status = exit_.code
    printed = capsys.readouterr()
    assert (status, printed.out) == (2, "")
    assert printed.err.startswith("error: ")
    assert printed.err.endswith("\n")
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize(
    ("arguments", "decisive"),
    [
        ([], "no document is named: pass files, folders or patterns (see --help)"),
        (["--format", "json"], "no document is named"),
        ([WORD, "--device", "tpu"], "device 'tpu' is unknown: use cpu, npu:0 (or Ascend) or cuda"),
        ([WORD, "--device", "cuda"], "no CUDA backend"),
        ([WORD, "--attn", "sdpa"], "argument --attn: invalid choice: 'sdpa'"),
        ([WORD, "--max-new-tokens", "0"], "--max-new-tokens is 0: use 1 or more"),
        ([WORD, "--max-new-tokens", "-3"], "--max-new-tokens is -3: use 1 or more"),
        ([WORD, "--max-new-tokens", "many"], "--max-new-tokens"),
        ([WORD, "--max-length", "5"], "max_length is 5: use 64 to 262144"),
        ([WORD, "--max-pixels", "0"], "max_pixels 0 do not fit"),
        ([WORD, "--max-pixels", "-784"], "max_pixels -784 do not fit"),
        ([WORD, "--no-such-option"], "--no-such-option"),
        ([WORD, "--model", "no/such/folder"], "model no/such/folder does not exist (nothing is downloaded)"),
        ([WORD, "--model", WORD], f"model {WORD} is a file: pass a Qwen2-VL folder"),
        ([WORD, "--model", "tests"], "is missing: pass a complete checkpoint folder"),
        ([WORD, "--output", "no/such/folder/pages.txt"], "--output no/such/folder/pages.txt cannot be written ("),
    ],
)
def test_wrong_usage_exits_2_with_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], decisive: str) -> None:
    assert decisive in refused(capsys, *arguments)


@pytest.mark.skipif(any(Path("/dev").glob("davinci[0-9]*")), reason="this machine has an Ascend device")
def test_a_device_that_is_not_there_is_refused_by_the_program_itself_in_one_line() -> None:
    done = run(WORD, "--device", "Ascend")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: device 'npu:0': no Ascend runtime here (")
    assert done.stderr.count(b"\n") == 1


def test_output_that_is_a_folder_is_refused_before_any_page_is_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mindnlp_ocr.opening.load_model", lambda arguments: pytest.fail("the model was loaded"))
    (tmp_path / "pages").mkdir()
    assert f"--output {tmp_path / 'pages'} cannot be written (" in refused(capsys, WORD, "--output", str(tmp_path / "pages"))
    assert [path.name for path in tmp_path.iterdir()] == ["pages"]


def test_a_model_that_cannot_be_used_leaves_an_older_output_as_it_was(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    output = tmp_path / "pages.txt"
    output.write_text("older", encoding="utf-8")
    refused(capsys, WORD, "--output", str(output), "--model", "no/such/folder")
    assert output.read_text(encoding="utf-8") == "older"
    assert [path.name for path in tmp_path.iterdir()] == ["pages.txt"]


def test_help_and_version_exit_0(capsys: pytest.CaptureFixture[str]) -> None:
    for option, decisive in (("--help", "exit status: 0"), ("--version", "mindnlp-ocr 0.")):
        with pytest.raises(SystemExit) as exit_:
            main([option])
        assert exit_.value.code == 0
        assert decisive in capsys.readouterr().out


@pytest.mark.parametrize("name", [os.fsdecode(b"no-\xff.png"), "x" * 5000], ids=["not UTF-8", "too long"])
def test_a_name_that_is_no_utf_8_or_too_long_is_an_error_of_its_page(
    model: Qwen2VLModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """With the model of the other tests, to save loading one: nothing is read here."""
    monkeypatch.setattr("mindnlp_ocr.opening.load_model", lambda arguments: model)
    output = tmp_path / "pages"
    assert main([name, "no.png", "--format", "json", "--output", str(output)]) == 1
    first, second = json.loads(output.read_text(encoding="utf-8"))["results"]
    assert first["error"]
    assert second["error"] == "no.png is missing: pass a PDF or an image file"
    assert main([name, "no.png", "--output", str(output)]) == 1
    assert output.read_bytes().endswith(b"==> no.png <==\n\n")


# What names pages


@pytest.fixture
def scans(tmp_path: Path) -> Callable[..., list[str]]:
    for name in ("b.png", "a.JPG", "notes.txt", "c.tiff", "sub/d.png", "[1].png", "1.png", "dir.png/e.txt"):
        path = tmp_path / "scans" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def expanded(*parts: str) -> list[str]:
        found = list(expand(str(tmp_path.joinpath("scans", *parts))))
        return [str(Path(name).relative_to(tmp_path / "scans")) for name in found]

    return expanded


def test_a_folder_names_its_images_in_order_and_no_other_file(scans: Callable[..., list[str]]) -> None:
    assert scans() == ["1.png", "[1].png", "a.JPG", "b.png", "c.tiff"]


def test_a_pattern_names_what_it_matches_in_order(scans: Callable[..., list[str]]) -> None:
    assert scans("?.png") == ["1.png", "b.png"]
    assert scans("**", "d.*") == ["sub/d.png"]
    assert scans("[1].png") == ["[1].png"]  # a file of this very name, not the pattern


def test_what_names_nothing_is_kept_to_fail_as_a_page(scans: Callable[..., list[str]]) -> None:
    assert scans("*.webp") == ["*.webp"]
    assert scans("no.png") == ["no.png"]
    assert scans("dir.png") == ["dir.png"]


def test_a_data_url_is_an_image_not_a_pattern() -> None:
    url = "data:image/png;base64," + "A" * 10_000
    assert list(expand(url)) == [url]


def test_a_run_that_breaks_off_keeps_what_was_read(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = DocumentStream.read

    def interrupted(stream: DocumentStream, names: Any) -> Any:
        for event in read(stream, names):
            yield event
            if isinstance(event, Ended):
                raise KeyboardInterrupt

    monkeypatch.setattr(DocumentStream, "read", interrupted)
    monkeypatch.setattr("mindnlp_ocr.opening.load_model", lambda arguments: model)
    assert main([WORD, LINE, "--output", str(tmp_path / "pages.txt")]) == 130
    assert case("word_56x56")["text"] in (tmp_path / "pages.txt.part").read_text(encoding="utf-8")
    assert f"partial output is in {tmp_path / 'pages.txt.part'}" in capsys.readouterr().err


# Settings in a file


def test_settings_of_a_file_are_as_if_given_and_what_is_given_wins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("dtype: int8\nthreads: 1\nformat: text\nno-kv-cache: false\nstats:\n", encoding="utf-8")
    try:
        assert main([WORD, "--config", str(settings), "--format", "json"]) == 0
    finally:
        native.use_threads(0)
    printed = capsys.readouterr()
    info = json.loads(printed.out)["model"]
    assert (info["dtype"], info["threads"], info["kv_cache_enabled"]) == ("int8", 1, True)
    assert printed.err == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dtpye: int8", "unknown setting 'dtpye': did you mean dtype?"),
        ("images: [a.png]", "unknown setting 'images'"),
        ("max_length: 128", "unknown setting 'max_length': did you mean max-length?"),
        ("version: true", "unknown setting 'version'"),
        ("dtype: int4", "dtype is 'int4': use 'auto', 'fp32', 'fp16', 'bf16' or 'int8'"),
        ("jit-level: O2", "jit-level is 'O2': use 'O0' or 'O1'"),
        ("threads: [1, 2]", "threads is [1, 2]: use a valid integer"),
        ("threads: '2'", "threads is '2': use a valid integer"),
        ("threads: true", "threads is True: use a valid integer"),
        ("memory-limit-gb: much", "memory-limit-gb is 'much': use a valid number"),
        ("deterministic: 1", "deterministic is 1: use a valid boolean"),
        ("cache-dir: 7", "cache-dir is 7: use a valid string"),
        ("- dtype", "contains no settings: write lines such as `dtype: int8`"),
        ("dtype: [", "cannot be read (while parsing"),
    ],
)
def test_settings_that_are_wrong_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text(text, encoding="utf-8")
    assert main([WORD, "--config", str(settings)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --config {settings}")
    assert message in error
    assert error.count("\n") == 1


def test_a_file_of_settings_that_is_missing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([WORD, "--config", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml cannot be read ([Errno 2] No such file or directory" in capsys.readouterr().err


def test_a_setting_that_the_device_does_not_know_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("memory-limit-gb: 4\n", encoding="utf-8")
    assert main([WORD, "--config", str(settings)]) == 2
    assert capsys.readouterr().err.startswith(
        "error: memory_limit_gb is 4.0: MindSpore enforces no limit on a CPU: remove it"
    )


def test_the_settings_that_ship_are_good(capsys: pytest.CaptureFixture[str]) -> None:
    for settings in sorted((ROOT / "configs").glob("*.yaml")):
        assert main(["--config", str(settings)]) == 2
        assert capsys.readouterr().err.endswith(" [document_not_named]\n")
