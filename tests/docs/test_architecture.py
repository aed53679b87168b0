"""Tests that the tree in docs/architecture.md lists exactly the existing modules."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "mindnlp_ocr"
AS_A_WHOLE = {"bench", "utils", "assets"}  # said of the folder, not of each module


def tree() -> dict[str, str]:
    """What the tree says of every folder; "" is the package itself."""
    block = re.findall(
        r"^```\n(mindnlp_ocr/\n.*?)^```", (ROOT / "docs/architecture.md").read_text(encoding="utf-8"), re.M | re.S
    )[0]
    parts = re.split(r"^(?:  )?(\w+/|cli\.py) ", block, flags=re.MULTILINE)
    return {name.strip("/") if name != "cli.py" else "": text for name, text in zip(parts[1::2], parts[2::2], strict=True)}


TREE = tree()
FOLDERS = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file() or path.name == "assets")


def test_every_folder_of_the_package_is_in_the_tree() -> None:
    assert set(FOLDERS) < set(TREE)
    top = {"configs", "contrib", "deploy", "docs", "examples", "kernels", "tools", "tests", "training"}
    assert set(TREE) == {"", *FOLDERS, *top}
    assert all((ROOT / name).is_dir() for name in top)


@pytest.mark.parametrize("folder", ["", *(name for name in FOLDERS if name not in AS_A_WHOLE)])
def test_every_module_of_a_folder_is_named_and_no_other(folder: str) -> None:
    named = set(re.findall(r"(?<![\w/])\w+\.py", TREE[folder])) | ({"cli.py"} if not folder else set())
    there = {path.name for path in (PACKAGE / folder).glob("*.py")} - {"__init__.py"}
    assert named - {"infer.py"} == there


def test_every_tool_that_is_named_is_there() -> None:
    named = set(re.findall(r"\w+\.py", TREE["tools"]))
    assert "infer.py" in named
    assert named <= {path.name for path in Path(ROOT / "tools").glob("*.py")}
