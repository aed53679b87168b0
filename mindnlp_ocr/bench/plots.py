"""Plots of the results of benchmarks, as self-contained SVG."""

import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mindnlp_ocr.bench.results import Results, Row

# The colours of Okabe and Ito, which people with colour vision deficiency can tell apart.
BLUE, ORANGE, GREEN, YELLOW, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#56B4E9"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW)
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "mindnlp_ocr",
}
MOST = 16  # maximum number of groups of bars or points; more would be illegible
STAGES = ("preprocess", "vision", "prefill", "decode")


class Plot(NamedTuple):
    """A plot of one section.

    Attributes:
        text: description of the plot.
        svg: the plot itself.
    """

    section: str
    text: str
    svg: str


def drawn(results: Results) -> dict[str, Plot]:
    """Return all plots for which there are figures, by name."""
    plots = {}
    for name, (tool, section, text, draw) in PLOTS.items():
        rows = results.sections[section].rows if tool == results.tool and section in results.sections else []
        if 0 < len({row.get("page", number) for number, row in enumerate(rows)}) <= MOST:
            with matplotlib.rc_context(STYLE):
                plots[name] = Plot(section, text, _svg(draw, rows))
    return plots


def _svg(draw: Callable[[Axes, list[Row]], None], rows: list[Row]) -> str:
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    axes = figure.add_subplot()
    draw(axes, rows)
    axes.grid(axis="x" if axes.yaxis_inverted() else "y", alpha=0.3)
    axes.set_axisbelow(True)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def _numbers(rows: Sequence[Row], column: str) -> list[float]:
    """Return a column. Values that were not measured are NaN, which leaves a gap."""
    values = [row.get(column) for row in rows]
    return [float(value) if isinstance(value, int | float) else float("nan") for value in values]


def _names(rows: Sequence[Row], column: str) -> list[str]:
    return [str(row[column]) for row in rows]


def _stages(axes: Axes, rows: list[Row]) -> None:
    left = [0.0] * len(rows)
    for stage, colour in zip(STAGES, COLOURS, strict=False):
        taken = _numbers(rows, f"{stage}_ms")
        axes.barh(_names(rows, "page"), taken, left=left, color=colour, label=stage)
        left = [start + more for start, more in zip(left, taken, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds, median")
    _legend(axes)


def _legend(axes: Axes) -> None:
    """Place the legend above the axes, where it covers nothing."""
    entries = axes.get_legend_handles_labels()[1]
    axes.legend(ncols=len(entries), loc="upper center", bbox_to_anchor=(0.5, 1.16), frameon=False)


def _line(x: str, y: str, across: str, up: str) -> Callable[[Axes, list[Row]], None]:
    def draw(axes: Axes, rows: list[Row]) -> None:
        axes.plot(_numbers(rows, x), _numbers(rows, y), "o-", color=BLUE)
        axes.margins(y=0.1)
        axes.set_ylim(bottom=0)
        axes.set(xlabel=across, ylabel=up)

    return draw


def _pairs(names: str, columns: dict[str, str], across: str, up: str) -> Callable[[Axes, list[Row]], None]:
    """Return a function that draws bars side by side, each with its value; ``columns``: label -> column."""

    def draw(axes: Axes, rows: list[Row]) -> None:
        width = 0.8 / len(columns)
        for number, (label, column) in enumerate(columns.items()):
            places = [place - 0.4 + width * (number + 0.5) for place in range(len(rows))]
            bars = axes.bar(places, _numbers(rows, column), width, color=COLOURS[number], label=label)
            axes.bar_label(bars, fmt=lambda value: f"{value:,.0f}" if value >= 100 else f"{value:.3g}", fontsize=8)
        axes.set_xticks(range(len(rows)), _names(rows, names))
        axes.margins(y=0.15)
        axes.set(xlabel=across, ylabel=up)
        if len(columns) > 1:
            _legend(axes)

    return draw


def _memory(axes: Axes, rows: list[Row]) -> None:
    for name, colour in (("flash", BLUE), ("eager", ORANGE)):
        axes.plot(_numbers(rows, "patches"), _numbers(rows, f"{name}_mb"), "o-", color=colour, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks([int(row["patches"] or 0) for row in rows], [f"{row['patches']:,}" for row in rows])
    axes.set(xlabel="patches", ylabel="MB without q, k and v")
    axes.legend(frameon=False)


def _engines(axes: Axes, rows: list[Row]) -> None:
    """Plot the page times of every engine, with one group of bars per page."""
    pages, engines = (list(dict.fromkeys(_names(rows, column))) for column in ("page", "engine"))
    table: list[Row] = []
    for page in pages:
        of_page = [row for row in rows if row["page"] == page]
        table.append({"page": page, **{str(row["engine"]): row["page_ms"] for row in of_page}})
    _pairs("page", {engine: engine for engine in engines}, "", "milliseconds per page")(axes, table)


PLOTS: dict[str, tuple[str, str, str, Callable[[Axes, list[Row]], None]]] = {
    "latency-by-stage": ("benchmark_kv_cache", "latency", "Milliseconds per page by stage", _stages),
    "hit-against-cold": (
        "benchmark_kv_cache",
        "hits",
        "Time to the first token of a question about a cached and about a new page",
        _pairs("page", {"cold": "cold_ms", "hit": "hit_ms"}, "", "milliseconds"),
    ),
    "throughput-by-batch": (
        "benchmark_kv_cache",
        "batch",
        "Pages per second by batch size",
        _pairs("batch_size", {"pages per second": "pages_per_s"}, "pages at a time", "pages per second"),
    ),
    "prefill-by-length": (
        "benchmark_kv_cache",
        "prompts",
        "Prompt tokens per second by prompt length",
        _line("prompt_tokens", "tokens_per_s", "tokens of the prompt", "tokens per second"),
    ),
    "speed-by-context": (
        "benchmark_kv_cache",
        "long",
        "New tokens per second by context length",
        _line("context_tokens", "tokens_per_s", "tokens of context", "new tokens per second"),
    ),
    "memory-by-length": (
        "benchmark_comparison",
        "attention_memory",
        "Memory of attention by sequence length, flash and eager",
        _memory,
    ),
    "on-against-off": (
        "benchmark_comparison",
        "single_image",
        "Time per page with the KV cache on and off",
        _pairs("page", {"off": "disabled_ms", "on": "enabled_ms"}, "", "milliseconds"),
    ),
    "peers": ("benchmark_peers", "pages", "Milliseconds per page by engine", _engines),
}
