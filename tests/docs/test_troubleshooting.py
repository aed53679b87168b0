"""Tests that every error of the package has a code, and that docs/troubleshooting*.md explain every code once."""

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = ("docs/troubleshooting.md", "docs/troubleshooting-models.md", "docs/troubleshooting-server.md")
SOURCES = sorted((ROOT / "mindnlp_ocr").rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
ALSO = {"failure"}  # a variable that holds a class of errors


def error_classes(trees: Iterable[ast.Module]) -> dict[str, ast.ClassDef]:
    """Return OCRError and all of its subclasses."""
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    found = {node.name: node for node in classes if node.name == "OCRError"}
    while new := {c.name: c for c in classes if c.name not in found and any(getattr(b, "id", "") in found for b in c.bases)}:
        found |= new
    return found


CLASSES = error_classes(TREES.values())
SET_IT = {name for name, node in CLASSES.items() if name != "OCRError" and 'code="' in ast.unparse(node).replace("'", '"')}


def codes(tree: ast.AST) -> Iterator[tuple[int, ast.expr | None]]:
    """Yield the line and the code of every error that is created; None if it has no code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", None) or getattr(node.func, "attr", "")
            if name in (set(CLASSES) | ALSO) - SET_IT or ast.unparse(node.func) == "super().__init__":
                given = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
                if given or name != "__init__":
                    yield from ((node.lineno, code) for code in choices(given[0] if given else None))


def choices(code: ast.expr | None) -> list[ast.expr | None]:
    """Return the values of a conditional expression."""
    return choices(code.body) + choices(code.orelse) if isinstance(code, ast.IfExp) else [code]


def literal(code: ast.expr | None) -> str | None:
    return code.value if isinstance(code, ast.Constant) and isinstance(code.value, str) else None


def passed_on(code: ast.expr | None) -> bool:
    """Return whether the code is that of another error, or of one that was sent by another process."""
    if isinstance(code, ast.Attribute):
        return code.attr == "code"
    return isinstance(code, ast.Subscript) and isinstance(code.slice, ast.Constant) and code.slice.value == "code"


def entries() -> list[tuple[str, str]]:
    """Return every `code` at the beginning of a list item, with its explanation."""
    text = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    return re.findall(r"^- `(\w+)`: ((?:.+\n?)(?:  .*\n?)*)", text, re.MULTILINE)


ENTRIES = entries()
LITERALS = {code for tree in TREES.values() for _, given in codes(tree) if (code := literal(given)) is not None}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_error_has_a_code(path: Path) -> None:
    bad = [f"{path.relative_to(ROOT)}:{line}" for line, code in codes(TREES[path]) if not (literal(code) or passed_on(code))]
    assert not bad, 'pass a literal code="...", or error.code of another error'


def test_codes_are_words_joined_by_underscores() -> None:
    assert len(LITERALS) > 150  # the search of the source works
    assert [code for code in LITERALS if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)+", code)] == []


def test_every_code_is_explained_once() -> None:
    found = Counter(code for code, _ in ENTRIES)
    assert sorted(LITERALS - set(found)) == [], "add an entry for each to one of " + ", ".join(PAGES)
    assert [code for code, count in found.items() if count > 1] == []


def test_every_entry_belongs_to_a_code() -> None:
    assert sorted({code for code, _ in ENTRIES} - LITERALS) == []


@pytest.mark.parametrize(("code", "about"), ENTRIES, ids=[code for code, _ in ENTRIES])
def test_an_entry_is_a_sentence(code: str, about: str) -> None:
    assert about.strip().endswith(".")
    assert len(about) > 20


def test_errors_without_a_code_are_detected() -> None:
    """The tests above rely on this."""
    text = 'raise SetupError("a")\nraise errors.PageError("b", code="b_c")\nraise ApiError(str(e), code=e.code)'
    found = [(line, literal(code), passed_on(code)) for line, code in codes(ast.parse(text))]
    assert found == [(1, None, False), (2, "b_c", False), (3, None, True)]
    assert {"BatchError", "BusyError"} == SET_IT
    assert {"ApiError", "OverflowedError", "PageError", "QueueFullError", "SetupError"} < set(CLASSES)
