"""A self-contained HTML page with images, the texts read, and coloured differences from the ground truth."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
from PIL import Image

from mindnlp_ocr.bench.accuracy import Page, Score, WordScore, compared, difference, normal
from mindnlp_ocr.bench.results import Results, Row, shown

BROWSERS_SHOW = {"PNG", "JPEG", "WEBP", "GIF"}

HTML = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Results by page</title>
<style>
:root { color-scheme: light dark; --missing: #ffd0d0; --extra: #c4f0c8; }
@media (prefers-color-scheme: dark) { :root { --missing: #7a1f24; --extra: #14572a; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 90rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #8884; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
article { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1rem;
  border-top: 1px solid #8888; padding: 1rem 0; }
article h2 { grid-column: 1 / -1; margin: 0; font-size: 1.1rem; overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; background: #fff; }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font: 15px/1.5 ui-monospace, monospace; }
del { background: var(--missing); }
ins { background: var(--extra); text-decoration: none; }
code { font-size: .9em; overflow-wrap: anywhere; }
</style>
</head>
<body>
<h1>Results by page, the worst first</h1>
<p>{{ results.date }}: <code>{{ results.command }}</code></p>
<p>{{ about }} Differences: <del>text of the ground truth that was missed</del> and <ins>wrong or additional text</ins>.</p>
<table>
<tr>{% for column in totals[0] %}<th>{{ column | replace("_percent", ", %") | replace("_", " ") }}</th>{% endfor %}</tr>
{%- for row in totals %}
<tr>{% for value in row.values() %}<td>{{ value | shown }}</td>{% endfor %}</tr>
{%- endfor %}
</table>
{%- for entry in entries %}
<article>
<h2>{{ entry.page.image }}: CER {{ entry.score.cer_percent | shown }} %, {{ entry.score.character_errors | shown }} of
{{ entry.score.characters | shown }} characters</h2>
<div>
{%- if entry.picture %}<img src="{{ entry.picture }}" alt="the page">{% else %}The image cannot be shown.{% endif -%}
</div>
{%- if entry.fault %}
<div><h3>Not read</h3>{{ entry.fault }}</div>
{%- else %}
<div><h3>Read</h3><pre>{{ entry.reading }}</pre></div>
{%- endif %}
<div><h3>Differences from the ground truth</h3><pre>
{%- for kind, text in entry.pieces -%}
{% if kind == "same" %}{{ text }}{% elif kind == "missing" %}<del>{{ text }}</del>{% else %}<ins>{{ text }}</ins>{% endif %}
{%- endfor %}</pre></div>
</article>
{%- endfor %}
</body>
</html>
"""


@dataclass(frozen=True)
class Entry:
    """The result of a page; ``fault`` is the error if it could not be read."""

    page: Page
    reading: str | None
    fault: str | None
    score: Score
    loose: bool
    ignore_case: bool = False
    words: WordScore = field(default_factory=WordScore)

    @property
    def pieces(self) -> list[tuple[str, str]]:
        """Return the differences of the compared characters. Line ends that differ are made visible."""
        texts = (normal(text, self.loose, self.ignore_case) for text in (self.page.truth, self.reading or ""))
        truth, reading = (compared(text, self.loose) for text in texts)
        pieces = difference(truth, reading)
        return [(kind, text if kind == "same" else text.replace("\n", "↵\n")) for kind, text in pieces]

    @property
    def picture(self) -> str | None:
        """Return a data URL, converted to PNG if browsers do not support the format; None if the image cannot be opened."""
        try:
            with Image.open(self.page.image) as image:
                kind, data = image.format or "", Path(self.page.image).read_bytes()
                if kind not in BROWSERS_SHOW:
                    kind, file = "PNG", io.BytesIO()
                    image.convert("RGB").save(file, "PNG")
                    data = file.getvalue()
        except Exception:  # the error was reported when the page was read
            return None
        return f"data:{Image.MIME[kind]};base64,{base64.b64encode(data).decode()}"


def gallery(results: Results, totals: Sequence[Row], entries: Sequence[Entry], about: str) -> str:
    """Return the HTML page with the given entries."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["shown"] = shown
    values = {"results": results, "totals": totals, "entries": entries, "about": about}
    return environment.from_string(HTML).render(values) + "\n"
