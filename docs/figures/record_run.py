#!/usr/bin/env python3
"""Record run.svg from real runs, whose output it shows as it came.

uv run --with rich docs/figures/record_run.py
"""

import io
import os
import re
import subprocess
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent.parent
RUNS = ("tools/infer.py examples/invoice.png", "tools/infer.py examples/notice_zh.png")
WIDTH = 60


def main() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}  # of `--with rich`
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    for run in RUNS:
        command = ["uv", "run", "--quiet", *run.split()]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        console.print(Text(f"$ uv run {run}", style="bold green"))
        console.print(Text(done.stdout.rstrip() + "\n"))
    svg = console.export_svg(title="mindnlp-ocr")
    # What shows it needs no network: the fonts that rich names are left out; the width of every text is in the file.
    svg = re.sub(r"@font-face \{.*?\}\s*|<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code", "DejaVu Sans Mono")
    lines = (line.rstrip() for line in svg.splitlines())
    (ROOT / "docs" / "figures" / "run.svg").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
