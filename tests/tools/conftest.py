"""Fixtures that run the tools of tools/ in this process."""

import gc
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT

Tool = Callable[..., object]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Tool:
    """A tool by its name, with arguments, of this checkout or of ``root``; its exit status."""

    def run(name: str, *arguments: object, root: Path = ROOT) -> object:
        monkeypatch.setattr(sys, "argv", [f"tools/{name}.py", *map(str, arguments)])
        try:
            runpy.run_path(str(root / "tools" / f"{name}.py"), run_name="__main__")
        except SystemExit as ended:
            return ended.code or 0
        finally:
            gc.collect()  # a model is a ring of objects
        return 0

    return run
