"""The commands of ``mindnlp-ocr``: each is there after an installation, and the tools of the checkout are doors to them."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from mindnlp_ocr.bench import tool
from mindnlp_ocr.cli import main
from mindnlp_ocr.commands import COMMANDS
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
from tests.conftest import ROOT


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: mindnlp-ocr {command}") and "tools/" not in printed


def test_the_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert all(f"\n  {command} " in printed for command in (*COMMANDS, "infer"))


def test_a_benchmark_without_its_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark"]) == 2
    assert "use comparison, kv-cache or report" in capsys.readouterr().err


def test_infer_reads_as_without_a_command(
    model: Qwen2VLModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mindnlp_ocr.opening.load_model", lambda arguments: model)
    page = str(ROOT / "tests" / "pages" / "word_56x56.png")
    assert main(["infer", page]) == 0
    with_command = capsys.readouterr().out
    assert main([page]) == 0
    assert with_command == capsys.readouterr().out != ""


@pytest.mark.parametrize("command", ["evaluate", "benchmark kv-cache", "benchmark comparison"])
def test_without_the_repository_its_pages_are_not_looked_for(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = tmp_path / "site-packages" / "mindnlp_ocr" / "bench" / "tool.py"
    monkeypatch.setattr(tool, "__file__", str(installed))
    assert main(command.split()) == 2
    assert "in the repository and not in the installed package" in capsys.readouterr().err


def test_every_command_is_in_the_wheel() -> None:
    """A module of a command imports nothing that only a checkout has."""
    for module, _ in COMMANDS.values():
        file = import_module(f"mindnlp_ocr.{module}").__file__
        assert file is not None and Path(file).is_relative_to(ROOT / "mindnlp_ocr")


def test_a_command_whose_extra_is_absent_names_it() -> None:
    script = "import sys; sys.modules['rapidfuzz'] = None; from mindnlp_ocr.cli import main; sys.exit(main(['evaluate']))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: rapidfuzz is not installed: run `pip install 'mindnlp-ocr[bench]'` [package_missing]\n"
