"""Make evaluation tables with LaTeX, whose cells are known because this program writes them.

    python -m training.tex_tables --data DATA --output TABLES --count 80
    python -m training.evaluate CHECKPOINT --typeset-tables TABLES

The columns, rules and fonts are those of LaTeX, not those of the tables that are drawn for training. TABLES contains the
pictures, and ``tables.json`` with the OTSL of each. Every second table is made to look scanned. The program needs pdflatex
with the packages booktabs and multirow (Debian: texlive-latex-extra, texlive-fonts-recommended, lmodern). The same seed
writes the same tables.
"""

import argparse
import json
import logging
import shutil
import subprocess
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import numpy as np
import pypdfium2
from PIL import Image

from training.pdf_pages import RESOLUTIONS, as_scan
from training.tables import CONTENTS, Cell, cell_text, otsl
from training.texts import Texts

log = logging.getLogger("training")
FONTS = ("lmodern", "helvet", "times", "palatino", "bookman", "newcent")
STYLES = ("grid", "rows", "booktabs", "booktabs", "none")
SPECIAL = "#$%&_"
OMITTED = set("\\^~`\"'<>|{}[]*")  # LaTeX prints them differently, or takes them for commands or arguments
GROUPS = 0.12  # share of the rows of a grid that begin a cell of several rows
EMPTY = (0.0, 0.0, 0.05, 0.2)
INK = 200  # grey values below are ink
MARGIN = 0.04  # around a table, in inches


def plain(text: str) -> str:
    """Return a text without the characters that are not ASCII or that need more than a backslash in LaTeX."""
    words = ("".join(c for c in word if " " < c <= "~" and c not in OMITTED) for word in text.split())
    return " ".join(filter(None, words))


def escaped(text: str) -> str:
    return "".join("\\" + c if c in SPECIAL else c for c in text)


class TexTable:
    """A random table.

    Attributes:
        style: one of STYLES.
        cells: of the whole table; their text is one line.
        heads: the number of rows of the head.
    """

    def __init__(self, texts: Texts, r: Random) -> None:
        self._texts, self._r = texts, r
        self.style = r.choice(STYLES)
        self.columns = r.randint(2, 6)
        self._contents = [r.choice(("entry", "words", "code")), *r.choices(CONTENTS, k=self.columns - 1)]
        self._wrapped = [n > 0 and self.columns < 5 and r.random() < 0.15 for n in range(self.columns)]
        self._empty = r.choice(EMPTY)
        self.cells: list[Cell] = []
        self.heads = self._add_head()
        self.rows = self.heads
        for _ in range(r.randint(2, 14)):
            self._add_rows(r.randint(2, 3) if self.style == "grid" and r.random() < GROUPS else 1)

    def otsl(self) -> str:
        return otsl(self.cells, self.rows, self.columns)

    def _text(self, column: int, head: bool = False) -> str:
        content, longest = "head" if head else self._contents[column], 24
        if self._wrapped[column] and not head:
            content, longest = "words", 80
        return plain(cell_text(self._texts, self._r, content, False, longest)) or "-"

    def _add_head(self) -> int:
        """Add no row, one row, or two rows of which the upper one names a group of columns; return their number."""
        r, k = self._r, self._r.random()
        if k < 0.1:
            return 0
        if k < 0.8 or self.columns < 4:
            self.cells += [Cell(0, n, lines=(self._text(n, True),)) for n in range(self.columns)]
            return 1
        first = r.randint(1, self.columns - 2)
        self.cells += [Cell(0, n, rows=2, lines=(self._text(n, True),)) for n in range(first)]
        self.cells.append(Cell(0, first, columns=self.columns - first, lines=(self._text(first, True),)))
        self.cells += [Cell(1, n, lines=(self._text(n, True),)) for n in range(first, self.columns)]
        return 2

    def _add_rows(self, count: int) -> None:
        """Add rows that share their first cell."""
        self.cells.append(Cell(self.rows, 0, rows=count, lines=(self._text(0),)))
        for row in range(self.rows, self.rows + count):
            for column in range(1, self.columns):
                if self._r.random() >= self._empty:
                    self.cells.append(Cell(row, column, lines=(self._text(column),)))
        self.rows += count

    # LaTeX

    def source(self) -> str:
        """Return a document with this table alone."""
        r, bar = self._r, "|" if self.style == "grid" else ""
        numbers = {"number", "amount"}
        sides = [r.choice("llrc" if content in numbers else "llc") for content in self._contents]
        wide = ">{\\raggedright\\arraybackslash}p{32mm}"
        columns = bar.join(wide if wrapped else side for side, wrapped in zip(sides, self._wrapped, strict=True))
        font = r.choice(FONTS)
        lines = [
            f"\\documentclass[{r.choice((10, 11, 12))}pt]{{article}}",
            "\\usepackage[T1]{fontenc}",
            f"\\usepackage{{{font}}}" + ("\\renewcommand{\\familydefault}{\\sfdefault}" if font == "helvet" else ""),
            "\\usepackage[paperwidth=600mm,paperheight=600mm,margin=10mm]{geometry}",
            "\\usepackage{array,booktabs,multirow}",
            "\\pagestyle{empty}\\hyphenpenalty=10000",
            f"\\renewcommand{{\\arraystretch}}{{{r.choice((1, 1, 1.2, 1.4))}}}",
            f"\\setlength{{\\tabcolsep}}{{{r.choice((4, 6, 6, 9))}pt}}",
            "\\begin{document}\\noindent" + r.choice(("", "\\small", "\\footnotesize")),
            f"\\begin{{tabular}}{{{bar}{columns}{bar}}}",
            {"booktabs": "\\toprule", "none": ""}.get(self.style, "\\hline"),
        ]
        bold = r.random() < 0.5
        for row in range(self.rows):
            lines += [self._row(row, bar, bold and row < self.heads) + " \\\\", self._rule(row)]
        return "\n".join([*filter(None, lines), "\\end{tabular}\\end{document}", ""])

    def _row(self, row: int, bar: str, bold: bool) -> str:
        starts = {cell.column: cell for cell in self.cells if cell.row == row}
        parts, column = [], 0
        while column < self.columns:
            cell = starts.get(column, Cell(row, column))
            text = escaped(cell.lines[0]) if cell.lines else ""
            text = f"\\textbf{{{text}}}" if bold and text else text
            if cell.rows > 1:
                text = f"\\multirow{{{cell.rows}}}{{*}}{{{text}}}"
            if cell.columns > 1:
                text = f"\\multicolumn{{{cell.columns}}}{{c{bar}}}{{{text}}}"
            parts.append(text)
            column += cell.columns
        return " & ".join(parts)

    def _rule(self, row: int) -> str:
        """Return the rule below a row, which does not cross cells of several rows."""
        if self.style == "booktabs":
            group = next((cell for cell in self.cells if cell.columns > 1), None)
            if group is not None and row == 0:
                return f"\\cmidrule{{{group.column + 1}-{self.columns}}}"
            return "\\bottomrule" if row == self.rows - 1 else "\\midrule" if row == self.heads - 1 else ""
        if self.style == "none":
            return ""
        crossed = {cell.column for cell in self.cells if cell.row <= row < cell.row + cell.rows - 1}
        if not crossed:
            return "\\hline"
        return f"\\cline{{{max(crossed) + 2}-{self.columns}}}"  # they are the first columns


def rendered(source: str, dpi: int) -> Image.Image:
    """Typeset a document, and return the part of its page with ink, in grey.

    Raises:
        RuntimeError: pdflatex failed.
    """
    with TemporaryDirectory() as folder:
        (Path(folder) / "table.tex").write_text(source, encoding="ascii")
        command = ["pdflatex", "-interaction=batchmode", "-halt-on-error", "table.tex"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            said = (Path(folder) / "table.log").read_text("utf8", "replace").splitlines()
            raise RuntimeError(f"pdflatex failed: {' '.join(line for line in said if line.startswith('!'))}")
        with pypdfium2.PdfDocument(Path(folder) / "table.pdf") as document:
            page: Image.Image = document[0].render(scale=dpi / 72).to_pil().convert("L")
    ink = np.asarray(page) < INK
    (top, bottom), (left, right) = (ink.any(axis).nonzero()[0][[0, -1]] for axis in (1, 0))
    margin = round(MARGIN * dpi)
    return page.crop((left - margin, top - margin, right + margin + 1, bottom + margin + 1))


def make(texts: Texts, output: Path, count: int, seed: int) -> None:
    output.mkdir(parents=True, exist_ok=True)
    truths: dict[str, str] = {}
    for number in range(count):
        r = Random(f"{seed} {number}")
        table, dpi, scanned = TexTable(texts, r), r.choice(RESOLUTIONS), number % 2 == 1
        picture = rendered(table.source(), dpi)
        name = f"{number:03}_{table.style}_{'scan' if scanned else 'clean'}_{dpi}.jpg"
        (as_scan(picture, r) if scanned else picture).save(output / name, quality=90)
        truths[name] = table.otsl()
    (output / "tables.json").write_text(json.dumps(truths, ensure_ascii=False, indent=1) + "\n", encoding="utf8")
    log.info("%d tables in %s", len(truths), output)


def main(arguments: list[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="word lists and corpora")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--count", type=int, default=80)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    if shutil.which("pdflatex") is None:
        parser.error("pdflatex is not installed: install LaTeX, on Debian the packages that --help names")
    make(Texts(options.data), options.output, options.count, options.seed)


if __name__ == "__main__":
    main()
