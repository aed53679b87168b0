"""Reports of benchmarks from their JSON results: Markdown with plots, and a self-contained HTML page."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2

from mindnlp_ocr.bench import criteria
from mindnlp_ocr.bench.plots import drawn
from mindnlp_ocr.bench.results import Results, Row, shown

# Endings of columns; the first that fits.
UNITS = {"_ms": ", ms", "_mb": ", MB", "_gb": ", GB", "_percent": ", %", "_per_s": "/s"}
UNITS |= {"_img_s": ", img/s", "_tokens_s": ", tokens/s", "_s": ", s"}
MARKS = {True: "✓ met", False: "✗ not met", None: "- not measured"}

LONG = 40  # rows, from which on the Markdown folds a table

MARKDOWN = """\
# {{ title }}

Written by `tools/report.py` from the JSON files that the benchmarks wrote with `--output`; do not edit it by hand.
A dash stands for what was not measured, or what there is not.
{% for run in runs %}
## {{ run.tool }}

`{{ run.command }}`

{{ run.date }}, {{ run.machine }}; {{ run.versions }}.
{%- if run.smoke %} **A smoke test: these figures mean nothing.**{% endif %}
{% for section in run.sections %}
### {{ section.title }}
{% if section.about %}
{{ section.about | wordwrap(120) }}
{% endif %}
{%- for plot in section.plots %}
![{{ plot.text }}]({{ plot.path }})
{% endfor %}{% if section.rows | length > long %}
<details><summary>{{ section.rows | length }} rows</summary>
{% endif %}
| {{ section.columns | join(" | ") }} |
|{{ "---|" * section.columns | length }}
{% for row in section.rows -%}
| {{ row | map("replace", "|", "\\\\|") | join(" | ") }} |
{% endfor %}
{%- if section.rows | length > long %}
</details>
{% endif %}
{%- endfor %}
{%- endfor %}"""

HTML = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #8884; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1rem 0; background: #fff; border-radius: .5rem; padding: .5rem; }
figure svg { width: 100%; height: auto; }
code { font-size: .9em; overflow-wrap: anywhere; }
.smoke { color: #c00; font-weight: bold; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{%- for run in runs %}
<h2>{{ run.tool }}</h2>
<p><code>{{ run.command }}</code><br>{{ run.date }}, {{ run.machine }}; {{ run.versions }}.
{%- if run.smoke %} <span class="smoke">A smoke test: these figures mean nothing.</span>{% endif %}</p>
{%- for section in run.sections %}
<h3>{{ section.title }}</h3>
<p>{{ section.about }}</p>
{%- for plot in section.plots %}
<figure role="img" aria-label="{{ plot.text }}">{{ plot.svg | safe }}</figure>
{%- endfor %}
<table>
<tr>{% for column in section.columns %}<th>{{ column }}</th>{% endfor %}</tr>
{%- for row in section.rows %}
<tr>{% for value in row %}<td>{{ value }}</td>{% endfor %}</tr>
{%- endfor %}
</table>
{%- endfor %}
{%- endfor %}
</body>
</html>
"""


def write_report(all_results: Sequence[Results], markdown: Path, title: str = "Performance") -> list[Path]:
    """Write ``markdown``, an HTML page of the same name, and the plots in a folder of that name. Returns all paths."""
    figures = markdown.with_suffix("")
    figures.mkdir(parents=True, exist_ok=True)
    runs, paths = [], list[Path]()
    for results in all_results:
        sections = []
        if results.tool == "benchmark_comparison":
            rows = [{**row, "met": MARKS[row["met"]]} for row in criteria.check(results)]  # type: ignore[index]
            sections.append(_section("Acceptance criteria", criteria.ABOUT, rows, []))
        pictures: dict[str, list[dict[str, str]]] = {}
        for name, plot in drawn(results).items():
            path = next(path for path in _names(figures, name) if path not in paths)
            path.write_text(plot.svg, encoding="utf-8")
            paths.append(path)
            picture = {"text": plot.text, "svg": _inline(plot.svg), "path": f"{figures.name}/{path.name}"}
            pictures.setdefault(plot.section, []).append(picture)
        for name, section in results.sections.items():
            if name != "report":
                sections.append(_section(section.title, section.about, section.rows, pictures.get(name, [])))
        runs.append({**_run(results), "sections": sections})
    html = markdown.with_suffix(".html")
    for path, template, escape in ((markdown, MARKDOWN, False), (html, HTML, True)):
        environment = jinja2.Environment(autoescape=escape, undefined=jinja2.StrictUndefined)
        text = environment.from_string(template).render(title=title, runs=runs, long=LONG)
        path.write_text(text.rstrip() + "\n", encoding="utf-8")
    return [markdown, html, *paths]


def _names(folder: Path, name: str) -> Iterator[Path]:
    """For plots of the same kind from several runs."""
    yield folder / f"{name}.svg"
    yield from (folder / f"{name}-{number}.svg" for number in itertools.count(2))


def _inline(svg: str) -> str:
    """Without what stands before it, which is for a file."""
    return svg[svg.index("<svg") :]


def _run(results: Results) -> dict[str, Any]:
    machine = results.machine
    place = f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}"
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    date = results.date.replace("T", " ").replace("+00:00", " UTC")
    return {**results.model_dump(include={"tool", "command", "smoke"}), "date": date, "machine": place, "versions": versions}


def _section(title: str, about: str, rows: Sequence[Row], plots: list[dict[str, str]]) -> dict[str, Any]:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    table = [["" if c not in row else "-" if row[c] is None else shown(row[c]) for c in columns] for row in rows]
    return {"title": title, "about": about, "columns": [_heading(c) for c in columns], "rows": table, "plots": plots}


def _heading(column: str) -> str:
    """A column's name with its unit as people write it."""
    for ending, unit in UNITS.items():
        if column.endswith(ending):
            return column.removesuffix(ending).replace("_", " ") + unit
    return column.replace("_", " ")
