"""Tests that a package imports only packages below it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mindnlp_ocr"
# From the bottom to the top. A name is a folder of the package, or a module beside them.
LAYERS = (
    "errors", "architectures", "config", "weights", "ops", "sampling", "backends", "cache", "parallel", "processing",
    "modeling", "engine", "export", "interop", "models", "documents", "output", "options", "settings", "opening", "cluster",
    "server", "farm", "bench", "commands", "cli", "utils",
)  # fmt: skip


def layer(path: Path) -> str:
    """The folder or the module of the package in which a file lies."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """The layers that a file imports, at its head or inside of functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for module in modules:
            parts = module.split(".")
            if parts[0] == "mindnlp_ocr" and len(parts) > 1 and parts[1] in LAYERS:
                yield parts[1]


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_every_folder_and_module_has_a_place() -> None:
    there = {layer(path) for path in FILES}
    assert there == set(LAYERS)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_imports_only_those_below_it(name: str) -> None:
    below = {name, *LAYERS[: LAYERS.index(name)]}
    up = {(str(path.relative_to(PACKAGE)), other) for path in FILES if layer(path) == name for other in imported(path)}
    assert {arrow for arrow in up if arrow[1] not in below} == set()
