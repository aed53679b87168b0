#!/usr/bin/env python3
"""Measure a farm on Ray: its speed compared with one process, and the overhead with simulated readers that sleep.

uv run tools/benchmark_farm.py --output farm.json
uv run tools/benchmark_farm.py --copies 4 --simulated-pages 20000 --simulated-actors 4 8 --sleep-ms 250
uv run tools/benchmark_farm.py --copies 0 --simulated-pages 1000000 --simulated-actors 1000 --actors-per-process 125 \
    --sleep-ms 1250 --output simulated.json
"""

import argparse
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pikepdf
import psutil

from mindnlp_ocr.bench.results import Results, Row
from mindnlp_ocr.bench.sleeping import READER as SLEEPING
from mindnlp_ocr.bench.tool import positive, run_tool, writable
from mindnlp_ocr.farm.command import farm_settings
from mindnlp_ocr.farm.inputs import documents
from mindnlp_ocr.farm.options import parser as farm_parser
from mindnlp_ocr.farm.report import Report
from mindnlp_ocr.farm.run import Workers, run
from mindnlp_ocr.farm.settings import READER

ROOT = Path(__file__).resolve().parent.parent
PAGES_A_FILE = 1000  # pages per document of a simulated farm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default=str(ROOT / "examples" / "letter.png"), help="page to read (default: the letter)")
    parser.add_argument(
        "--copies", type=int, default=32, help="number of copies of the page; 0: read no pages (default: 32)"
    )
    parser.add_argument(
        "--pages-per-task", type=positive, default=4, help="pages per task of the farm that reads (default: 4)"
    )
    parser.add_argument(
        "--simulated-pages", type=positive, default=20000, help="number of simulated pages, 16 per task (default: 20000)"
    )
    parser.add_argument(
        "--simulated-actors", type=positive, nargs="+", default=[4], help="numbers of simulated actors (default: 4)"
    )
    parser.add_argument(
        "--actors-per-process",
        type=positive,
        default=1,
        help="number of simulated actors per process, each in its own thread (default: 1); use more if a process for every "
        "actor would not fit into the machine",
    )
    parser.add_argument(
        "--sleep-ms", type=int, default=0, help="time per simulated page (default: 0, which measures only the overhead)"
    )
    parser.add_argument("--output", help="write the figures to FILE as JSON")
    arguments = parser.parse_args()
    # Ray loads protobuf before the single process imports MindSpore, which needs protobuf's implementation in Python.
    os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")
    writable(arguments.output)
    results = Results.start()
    with tempfile.TemporaryDirectory() as folder:
        rows = [simulated(Path(folder), arguments, actors) for actors in arguments.simulated_actors]
        about = "overhead: time per page in addition to sleeping."
        results.add("simulated", "A farm with readers that sleep", rows, about)
        if arguments.copies > 0:
            rows = list(read(Path(folder), arguments))
            about = "warm: without the first task of each process, which loads the model; the farms' outputs are compared."
            results.add("pages", "Pages per second", rows, about)
    if arguments.output:
        results.save(arguments.output)


# Pages that are read


def read(folder: Path, arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield the speed of farms with one and two actors, then of one process with two threads, on the same pages."""
    pages = folder / "pages"
    pages.mkdir()
    for number in range(arguments.copies):
        shutil.copy(arguments.image, pages / f"{number:04}{Path(arguments.image).suffix}")
    texts = set()
    for name, actors, cpus in (
        ("1 actor of 2 threads", 1, 2),
        ("1 actor of 1 thread", 1, 1),
        ("2 actors of 1 thread", 2, 1),
    ):
        output = folder / f"{actors}x{cpus}"
        start = time.perf_counter()
        report = farm(pages, output, READER, actors, cpus, arguments.pages_per_task)
        whole = time.perf_counter() - start
        texts.add(tuple(path.read_bytes() for path in sorted((output / "pages").rglob("*.parquet"))))
        wall = report.pages / report.seconds if report.seconds else 0.0
        yield {
            "what": name,
            "pages": report.pages,
            "warm_pages_per_s": report.warm_pages_per_second,
            "pages_per_s": wall,
            "start_s": report.start_seconds,
            "whole_s": whole,
        }
    if len(texts) != 1:
        raise SystemExit("error: the farms wrote different files: please report this")
    yield one_process(pages, arguments.pages_per_task)


def one_process(pages: Path, pages_per_task: int) -> Row:
    """Read the same pages without Ray. This runs last, because it imports MindSpore in this process."""
    from mindnlp_ocr.farm.reading import PageReader

    start = time.perf_counter()
    argv = [str(pages), "--output", "unused", "--cpus-per-actor", "2"]
    reader = PageReader(farm_settings(farm_parser().parse_args(argv)))
    found = enumerate(reader.read([(name, name, [0]) for name in documents([str(pages)])]), 1)
    first, count = next((time.perf_counter(), number) for number, _ in found if number == pages_per_task)
    for number, _ in found:
        count = number
    end = time.perf_counter()
    warm = (count - pages_per_task) / (end - first)
    return {"what": "1 process of 2 threads", "pages": count, "warm_pages_per_s": warm, "whole_s": end - start}


def farm(
    inputs: Path,
    output: Path,
    reader: str,
    actors: int,
    cpus: float,
    pages_per_task: int,
    sleep_ms: int = 0,
    at_once: int = 1,
) -> Report:
    """Run a farm on this machine."""
    argv = [str(inputs), "--output", str(output), "--pages-per-task", str(pages_per_task), "--cpus-per-actor", str(cpus)]
    if reader == SLEEPING:
        argv += ["--min-pixels", str(sleep_ms)]
    settings = farm_settings(farm_parser().parse_args(argv), reader)
    return run(settings, documents([str(inputs)]), Workers(actors=actors, cpus=cpus, at_once=at_once))


# Simulated pages


def simulated(folder: Path, arguments: argparse.Namespace, actors: int) -> Row:
    """Measure the overhead and memory of a farm, and how long a second run takes to find that all pages have been read."""
    inputs, output = folder / "simulated", folder / f"simulated-{actors}"
    if not inputs.exists():
        _blank_documents(inputs, arguments.simulated_pages)
    sleep, at_once = arguments.sleep_ms, min(actors, arguments.actors_per_process)
    processes = max(1, actors // at_once)
    actors = processes * at_once
    cpus = min(1.0, 1 / processes)
    with _watched() as seen:
        report = farm(inputs, output, SLEEPING, processes, cpus, 16, sleep, at_once)
    start = time.perf_counter()
    again = farm(inputs, output, SLEEPING, processes, cpus, 16, sleep, at_once)
    resumed = time.perf_counter() - start
    assert again.tasks == 0
    driver = [megabytes for megabytes, _ in seen]
    slept = report.pages * sleep / 1000 / actors
    return {
        "actors": actors,
        "processes": processes,
        "pages": report.pages,
        "tasks": report.tasks,
        "sleep_ms": sleep,
        "start_s": report.start_seconds,
        "tasks_per_s": report.tasks / report.seconds,
        "overhead_ms_a_page": 1000 * (report.seconds - slept) / report.pages,
        "driver_mb": max(driver),
        "driver_mb_by_tenths": " ".join(f"{megabytes:.0f}" for megabytes in driver[:: max(1, len(driver) // 10)]),
        "process_mb": max(megabytes for _, megabytes in seen) / processes,
        "resume_s": resumed,
    }


def _blank_documents(folder: Path, pages: int) -> None:
    folder.mkdir()
    for first in range(0, pages, PAGES_A_FILE):
        with pikepdf.new() as pdf:
            for _ in range(min(PAGES_A_FILE, pages - first)):
                pdf.add_blank_page()
            pdf.save(folder / f"{first:08}.pdf")


@contextmanager
def _watched() -> Iterator[list[tuple[float, float]]]:
    """Sample the unique memory (USS) of this process and of all actors together, in MB, every two seconds."""
    seen, over, own = [], threading.Event(), psutil.Process()

    def watch() -> None:
        while not over.wait(2.0):
            found = [process for process in own.children(recursive=True) if "ray::MapWorker" in _name(process)]
            seen.append((_megabytes(own), sum(map(_megabytes, found))))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()
        seen.append((_megabytes(own), 0.0))


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _megabytes(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().uss) / 2**20
    except psutil.Error:
        return 0.0


if __name__ == "__main__":
    run_tool(main)
