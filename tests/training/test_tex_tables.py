"""Tests of tables that LaTeX sets: the source and the ground truth must describe the same table."""

import re
import shutil
from pathlib import Path
from random import Random

import numpy as np
import pytest

from training.tex_tables import TexTable, escaped, main, plain, rendered
from training.texts import Texts

Grid = list[list[tuple[str, str]]]
needs_latex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")


def cells_of_source(source: str, columns: int) -> Grid:
    """The tag and the text of each cell of a LaTeX table."""
    body = source.split("\\begin{tabular}", 1)[1].split("\\end{tabular}")[0]
    grid: Grid = []
    below: dict[int, int] = {}  # rows that a cell above still covers, by column
    for line in body.splitlines():
        if not line.endswith(" \\\\"):
            continue
        row: list[tuple[str, str]] = []
        for part in re.split(r" & |^& | &$", line.removesuffix(" \\\\")):
            text, width = part.strip(), 1
            if found := re.fullmatch(r"\\multicolumn\{(\d)\}\{c\|?\}\{(.*)\}", text):
                width, text = int(found[1]), found[2]
            if found := re.fullmatch(r"\\multirow\{(\d)\}\{\*\}\{(.*)\}", text):
                below[len(row)], text = int(found[1]), found[2]
                tag = "fcel"
            elif below.get(len(row), 0) > 0:
                tag = "ucel"
            else:
                tag = "fcel" if text else "ecel"
            if found := re.fullmatch(r"\\textbf\{(.*)\}", text):
                text = found[1]
            row += [(tag, re.sub(r"\\(.)", r"\1", text)), *[("lcel", "")] * (width - 1)]
        below = {column: rows - 1 for column, rows in below.items()}
        assert len(row) == columns
        grid.append(row)
    return grid


@pytest.mark.parametrize("seed", range(40))
def test_the_source_has_the_cells_of_the_ground_truth(data: Path, seed: int) -> None:
    table = TexTable(Texts(data), Random(seed))
    wanted = [re.findall(r"<(fcel|ecel|lcel|ucel)>([^<]*)", row) for row in table.otsl().split("<nl>")[:-1]]
    assert cells_of_source(table.source(), table.columns) == wanted


def test_there_are_tables_of_every_kind(data: Path) -> None:
    tables = [TexTable(Texts(data), Random(seed)) for seed in range(60)]
    assert {table.style for table in tables} == {"grid", "rows", "booktabs", "none"}
    assert {table.heads for table in tables} == {0, 1, 2}
    tags = "".join(table.otsl() for table in tables)
    assert all(tag in tags for tag in ("<ecel>", "<lcel>", "<ucel>"))


def test_only_characters_remain_that_latex_prints_as_they_are() -> None:
    assert plain("a “b”\t[c] *d* {e} 50 % of $3 x_1 – ~f") == "a b c d e 50 % of $3 x_1 f"
    assert escaped("50 % of $3 & x_1 #2") == r"50 \% of \$3 \& x\_1 \#2"


@needs_latex
def test_a_picture_is_cut_at_its_ink() -> None:
    source = "\\documentclass{article}\\pagestyle{empty}\\begin{document}\\rule{72pt}{36pt}\\end{document}"
    ink = np.asarray(rendered(source, 100)) < 128
    assert abs(int(ink.any(0).sum()) - 100) <= 1 and abs(int(ink.any(1).sum()) - 50) <= 1
    assert not ink[:3].any() and not ink[-3:].any() and not ink[:, :3].any() and not ink[:, -3:].any()


@needs_latex
def test_the_fault_of_latex_is_in_the_error() -> None:
    with pytest.raises(RuntimeError, match="Undefined control sequence"):
        rendered("\\documentclass{article}\\begin{document}\\nonsense\\end{document}", 100)


def test_without_latex_the_program_says_what_to_install(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="2"):
        main(["--data", str(data), "--output", str(tmp_path / "tables")])
    assert "pdflatex is not installed" in capsys.readouterr().err
