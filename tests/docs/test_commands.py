"""Tests of all commands and links in the documentation; commands that can run here run on small pages."""

import argparse
import ast
import html
import importlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mindnlp_ocr import CacheConfig, opening
from mindnlp_ocr.export.manifest import FILE
from mindnlp_ocr.models.qwen2vl import EMBEDDED, Qwen2VLModel
from mindnlp_ocr.options import add_options
from tests.conftest import GOLDENS, ROOT
from tests.docs.commands import (
    DOCUMENTS,
    WITH_COMMANDS,
    Command,
    Outcome,
    anchors,
    blocks,
    call,
    call_cold,
    commands,
    inline,
    links,
    of_head,
    parse,
    tool,
)

# Commands that are not run here, by how they begin, and why. Where they name a tool of ours, its options are parsed.
NOT_RUN = {
    "pip install": "it needs a network; CI installs from the lock",
    "uv run pytest": "this is it",
    "uv run --isolated --group triton pytest": "CI runs it",
    "uv run ruff": "CI runs it",
    "uv run mypy": "CI runs it",
    "uv run pre-commit install": "it writes into .git",
    "bash .ci/run": "it runs this",
    "uv run msrun": "it takes ports and half a minute; tests/cluster runs both ways",
    "uv run --isolated --group clients pytest": "CI runs what needs the group",
    "mindnlp-ocr serve": "it serves until it is stopped; tests/server starts it",
    "curl": "it needs a server; tests/server asks the same",
    "npu-smi": "a tool of Ascend's driver",
    "python -m venv .venv-reference": "an environment of its own, with torch",
    ".venv-reference/bin/": "needs that environment",
    "python3.11 -m venv .venv-ascend": "an environment of its own, with Ascend's compiler",
    ".venv-ascend/bin/": "needs that environment",
    "uv run --isolated --only-group docs": "it serves the documentation until it is stopped",
    "apt-get install": "it needs a network and changes the machine",
}
# Tools whose options alone are parsed here, and why.
PARSED = {
    r"tools/benchmark_\w+\.py": "minutes; tests of their own try those that have --smoke",
    r"tools/(report|evaluate|evaluate_layout)\.py": "they have tests of their own",
    r"tools/compare_dtypes\.py": "a minute, over all pages",
    r"tools/selftest\.py": "tests/test_selftest.py runs it",
    r"tools/batch\.py": "it starts Ray; tests/farm runs farms",
    r"tools/serve\.py": "it serves until it is stopped; tests/server starts it",
}
RUN = ("tools/infer.py", "mindnlp-ocr", "tools/convert.py", "tools/export.py", "tools/forecast_memory.py")
WRITE = ("tools/convert.py", "tools/export.py")
# Few and small graphs in what is exported: the last of an option counts.
SMALL_EXPORT = ["--max-length", "128", "--max-new-tokens", "32", "--slots", "1", "--vision-patches", "64"]
SMALL = {"max_length": 2048, "max_new_tokens": 16, "max_pixels": 64 * 196}

COMMANDS = list(dict.fromkeys(command for path in WITH_COMMANDS for command in commands(path)))
INLINE = list(dict.fromkeys(command for path in DOCUMENTS for command in inline(path)))
HEADS = list(
    dict.fromkeys(
        command
        for path in [*sorted((ROOT / "tools").glob("*.py")), *sorted((ROOT / "mindnlp_ocr" / "commands").glob("*.py"))]
        for command in of_head(path)
    )
)


def kind(command: Command) -> str:
    """Classify a command: run, parsed, "not run", or unknown. Where one has all arguments of another, it alone is run."""
    name, arguments = tool(command)
    if any(" ".join(command).startswith(beginning) for beginning in NOT_RUN):
        return "not run"
    if any(re.fullmatch(pattern, name) for pattern in PARSED) or _too_large(arguments):
        return "parsed"
    if name in RUN or command[0] == "sha256sum":
        return "parsed" if name and _part_of_another(name, arguments) else "run"
    return "unknown"


def _part_of_another(name: str, arguments: list[str]) -> bool:
    """Whether another command, which is run, gives the same tool all of these arguments and more."""
    others = [words for other, words in map(tool, COMMANDS) if other == name and not _too_large(words)]
    return any(set(arguments) < set(words) for words in others)


def _too_large(arguments: list[str]) -> bool:
    """Whether a command needs an NPU (tests/export covers the export for one) or the 2B models of a measurement in /tmp."""
    for_npu = {"Ascend", "npu:0", "configs/ascend-910b.yaml"} & set(arguments)
    return bool(for_npu) or any(word.startswith("/tmp/") for word in arguments)


def shown(commands: list[Command]) -> Any:
    return pytest.mark.parametrize("command", commands, ids=[" ".join(command) for command in commands])


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all files to which the documentation refers."""
    folder = tmp_path_factory.mktemp("sandbox")
    pages = ROOT / "tests" / "pages"
    for name in ("scans", "more", "examples", "path/to", "tests/pages"):
        (folder / name).mkdir(parents=True)
    for place in ("page.png", "scans/1.png", "examples/invoice.png", "examples/letter.png", "tests/pages/4.png"):
        shutil.copy(pages / "word_56x56.png", folder / place)
    shutil.copy(pages / "small_48x30.png", folder / "scans" / "2.png")
    with Image.open(pages / "word_56x56.png") as page:
        page.convert("RGB").save(
            folder / "report.pdf", "PDF", resolution=72, save_all=True, append_images=[page.convert("RGB")] * 2
        )
    Image.open(pages / "word_56x56.png").convert("RGB").save(folder / "more" / "3.jpg", quality=95)
    for place in ("MODEL", "path/to/Qwen2-VL-2B-Instruct", "path/to/model"):
        (folder / place).symlink_to(EMBEDDED)
    adapters = {
        "ADAPTER": "patterns",
        "path/to/lora": "patterns",
        "path/to/adapter": "patterns",
        "path/to/another": "everything",
    }
    for place, name in adapters.items():
        (folder / place).symlink_to(GOLDENS / "lora" / name)
    for name in ("fp32", "int8"):  # as far as benchmark_peers.py looks when it parses
        (folder / "build/openvino" / name).mkdir(parents=True)
        (folder / "build/openvino" / name / "openvino_language_model.xml").touch()
    for name in ("tools", "configs"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("cpu.json", "npu.json", "npu_flash.json"):  # as if an NPU were there; a command writes the first anew
        (folder / name).write_text('{"results": [{"image": "4.png", "text": "a"}]}', encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def _one_model() -> Iterator[None]:
    """Commands that say nothing of the model share one."""
    said_nothing, load, loaded = argparse.ArgumentParser(), opening.load_model, list[Any]()
    add_options(said_nothing)
    defaults = vars(said_nothing.parse_args([])).items()

    def load_once(arguments: argparse.Namespace) -> Any:
        if any(getattr(arguments, name) != default for name, default in defaults):
            return load(arguments)
        if not loaded:
            loaded.append(load(arguments))
        return loaded[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "load_model", load_once)
        yield


@pytest.fixture(scope="module")
def written(sandbox: Path) -> dict[Command, Outcome]:
    """Converted and exported models for other commands, created by the documented commands."""
    outcomes = {}
    for command in COMMANDS:
        name, arguments = tool(command)
        if kind(command) == "run" and name in WRITE:
            target = sandbox / (arguments[1] if name == "tools/convert.py" else arguments[arguments.index("--output") + 1])
            if target.is_dir():
                shutil.rmtree(target)
            outcomes[command] = call(name, arguments + (SMALL_EXPORT if name == "tools/export.py" else []), sandbox)
    return outcomes


@pytest.mark.slow
@pytest.mark.usefixtures("_one_model")
@shown([command for command in COMMANDS if kind(command) == "run"])
def test_a_command_gives_its_documented_result(command: Command, sandbox: Path, written: dict[Command, Outcome]) -> None:
    name, arguments = tool(command)
    if command in written:
        outcome = written[command]
    elif not name:
        done = subprocess.run(command, cwd=sandbox, capture_output=True, text=True, check=False)
        outcome = Outcome(done.returncode, done.stdout, done.stderr)
    elif "--threads" in arguments:
        outcome = call_cold(arguments, sandbox)
    else:
        outcome = call(name, arguments, sandbox)
    assert outcome.status == 0, outcome.err
    assert "error" not in outcome.err
    if name in ("tools/infer.py", "mindnlp-ocr"):
        options = [option for option in ("--output", "--output-dir") if option in arguments]
        places = [sandbox / arguments[arguments.index(option) + 1] for option in options]
        files = [file for place in places for file in (place.iterdir() if place.is_dir() else [place])]
        assert "".join(outcome.out.split()) or any(file.read_bytes().strip() for file in files)


@shown([command for command in COMMANDS if kind(command) != "run" and tool(command)[0]])
def test_the_options_of_a_command_that_is_not_run_are_those_of_the_tool(command: Command, sandbox: Path) -> None:
    assert parse(command, sandbox) == ""


@shown(list(dict.fromkeys([*INLINE, *HEADS])))
def test_a_tool_that_a_sentence_or_its_own_head_names_takes_these_options(command: Command, sandbox: Path) -> None:
    assert (ROOT / tool(command)[0]).is_file() or tool(command)[0] == "mindnlp-ocr"
    if tool(command)[1] not in ([], ["--help"]):
        assert parse(command, sandbox) == ""


def test_every_command_has_a_class() -> None:
    assert min(len(COMMANDS), len(HEADS)) > 20  # they are found
    assert [command for command in COMMANDS if kind(command) == "unknown"] == []


def test_scripts_that_are_not_run_exist() -> None:
    words = [
        word for command in COMMANDS for word in command if re.fullmatch(r"(tools|tests|examples)/[\w/]+\.(py|sh)", word)
    ]
    assert [word for word in words if not (ROOT / word).is_file()] == []


@pytest.mark.parametrize("beginning", NOT_RUN)
def test_every_exception_is_used_by_a_document(beginning: str) -> None:
    assert any(" ".join(command).startswith(beginning) for command in COMMANDS)


def test_unknown_options_of_a_tool_are_detected(sandbox: Path) -> None:
    """The tests of options above rely on this."""
    assert "--no-such" in parse(("tools/infer.py", "page.png", "--no-such"), sandbox)
    assert "--no-such" in parse(("uv", "run", "tools/benchmark_peers.py", "--no-such"), sandbox)
    assert kind(("tools/gone.py",)) == "unknown"


# Python


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of short slots and small images, so that `warm_up()` compiles few graphs; mindnlp is left out, since its import
    changes the process (tests/interop has one of its own)."""
    real = Qwen2VLModel.__init__

    def init(self: Qwen2VLModel, model_name: Any = EMBEDDED, *given: Any, **options: Any) -> None:
        exported = (Path(model_name) / FILE).exists()
        real(self, model_name, *given, **(options if exported else SMALL | options))

    monkeypatch.setattr(Qwen2VLModel, "__init__", init)
    monkeypatch.setattr(Qwen2VLModel, "from_mindnlp", classmethod(lambda cls, model, processor=None, **options: model))


WITH_PYTHON = [path for path in WITH_COMMANDS if blocks(path, "python")]
OF_MINDNLP = [path for path in WITH_PYTHON if path.name == "mindnlp.md"]


def unique(paths: list[Path]) -> Iterator[Path]:
    """The documents without translations, whose code differs from the original only in comments."""
    seen: set[str] = set()
    for path in paths:
        code = ast.dump(ast.parse("".join(blocks(path, "python"))))
        if code not in seen:
            seen.add(code)
            yield path


@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in unique(WITH_PYTHON) if p not in OF_MINDNLP], ids=lambda path: path.name)
def test_python_blocks_run(
    path: Path,
    sandbox: Path,
    written: dict[Command, Outcome],
    small: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(sandbox)
    names: dict[str, Any] = {"Qwen2VLModel": Qwen2VLModel, "CacheConfig": CacheConfig, "theirs": object()}
    for block in blocks(path, "python"):
        exec(compile(block.replace('"/path/', '"path/'), str(path), "exec"), names)


@pytest.mark.parametrize("path", OF_MINDNLP, ids=lambda path: path.name)
def test_python_blocks_for_mindnlp_use_existing_names(path: Path) -> None:
    for node in ast.walk(ast.parse("".join(blocks(path, "python")))):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.startswith("from_"):
            assert hasattr(Qwen2VLModel, node.func.attr)


# Links, and the translation


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_have_a_target(path: Path) -> None:
    for link in links(path):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_both_readmes_have_the_same_commands_code_sections_and_links() -> None:
    english, chinese = ROOT / "README.md", ROOT / "README.zh.md"
    assert commands(english) == commands(chinese)
    assert [ast.dump(ast.parse(block)) for block in blocks(english, "python")] == [
        ast.dump(ast.parse(block)) for block in blocks(chinese, "python")
    ]
    sections = [re.findall(r"^#+ ", path.read_text(encoding="utf-8"), re.MULTILINE) for path in (english, chinese)]
    assert sections[0] == sections[1]
    ours, theirs = ([link for link in links(path) if not link.startswith(("#", "README"))] for path in (english, chinese))
    assert ours == theirs


def test_the_recorded_run_shows_what_the_program_prints() -> None:
    """CI compares examples/invoice.txt with a real run; tests/engine checks the other example."""
    shown = html.unescape(re.sub(r"<[^>]+>", "", (ROOT / "docs/figures/run.svg").read_text(encoding="utf-8")))
    lines = [line.replace("\N{NO-BREAK SPACE}", " ").strip() for line in shown.splitlines()]
    for name in ("invoice", "notice_zh"):
        text = (ROOT / "examples" / f"{name}.txt").read_text(encoding="utf-8").split("\n")
        start = lines.index(f"$ uv run tools/infer.py examples/{name}.png") + 1
        assert lines[start : start + len(text) - 1] == text[:-1]
