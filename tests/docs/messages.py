"""Extraction of the messages from the source of the package, with ``...`` in place of values."""

import ast
import re
from collections.abc import Iterator

from tests.conftest import ROOT

# What holds a message, beside the classes of errors: of a file of the cache, and of a device that fails in a graph.
ALSO = ("_UnfitError", "failure")
SETUP = ROOT / "setup.py"


def messages() -> dict[str, str]:
    """Every message that is raised, warned of, printed as an error, or given as a reason why something is not supported;
    and where it stands."""
    sources = [*sorted((ROOT / "mindnlp_ocr").rglob("*.py")), SETUP]
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sources}
    names = error_classes(trees.values()) | set(ALSO)
    found: dict[str, str] = {}
    for path, tree in trees.items():
        for node in ast.walk(tree):
            for text in _texts(node, names | {"SystemExit"} if path == SETUP else names):
                message = _normal(text).removeprefix("error: ")
                if re.search(r"\w", message) and message != "warning: ...":
                    found.setdefault(message, f"{path.relative_to(ROOT)}:{node.lineno}")  # type: ignore[attr-defined]
    return found


def options() -> dict[str, str]:
    """Every message that the tools and commands print themselves: wrong options, and errors outside of the package."""
    found: dict[str, str] = {}
    for path in sorted([*(ROOT / "tools").glob("*.py"), *(ROOT / "mindnlp_ocr/commands").glob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args and (_name(node) == "error" or _to_stderr(node)):
                message = _normal(node.args[0]).removeprefix("error: ")
                if re.search(r"\w", message):
                    found.setdefault(message, f"{path.relative_to(ROOT)}:{node.lineno}")
    return found


def error_classes(trees: "Iterator[ast.Module] | object") -> set[str]:
    """OCRError and every class of the package that derives from it."""
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]  # type: ignore[attr-defined]
    names = {"OCRError"}
    while new := {c.name for c in classes if any(getattr(b, "id", "") in names for b in c.bases)} - names:
        names |= new
    return names


def _texts(node: ast.AST, names: set[str]) -> Iterator[ast.expr]:
    if isinstance(node, ast.Call) and node.args:
        name = _name(node)
        if name in names or name == "warn" or _to_stderr(node):
            yield node.args[0]
    elif (
        isinstance(node, ast.Assign | ast.AnnAssign)
        and ast.unparse(getattr(node, "target", None) or node.targets[0]) == "error"
    ):
        yield node.value  # a message, before it is handed on
    elif isinstance(node, ast.ClassDef) and node.name in names:  # a class that makes its message itself
        inits = (
            call for call in ast.walk(node) if isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__"
        )
        yield from (call.args[0] for call in inits if call.args)
    elif isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple) and len(node.value.elts) == 2:
        verdict, reason = node.value.elts
        if isinstance(verdict, ast.Constant) and verdict.value is False:
            yield reason


def _name(call: ast.Call) -> str:
    return getattr(call.func, "id", None) or getattr(call.func, "attr", "")


def _to_stderr(call: ast.Call) -> bool:
    return any(k.arg == "file" and ast.unparse(k.value) == "sys.stderr" for k in call.keywords)


def _normal(node: ast.expr) -> str:
    text = re.sub(r"(\.\.\.)(\s*\.\.\.)+", "...", _literal(node))
    return " ".join(text.split())


def _literal(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else "..."
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_literal, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _literal(node.left) + _literal(node.right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "replace":
        return _literal(node.func.value)
    return "..."
