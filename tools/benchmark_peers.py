#!/usr/bin/env python3
"""Compare our page latency and text accuracy with peers on the same pages: transformers on PyTorch, OpenVINO GenAI and
mindnlp, which run the same checkpoint in float32, and the OCR engines Tesseract and RapidOCR.

    uv run tools/benchmark_peers.py                                # all available peers; missing ones are reported
    uv run tools/benchmark_peers.py --peers tesseract,rapidocr tests/pages --output peers.json --report report

Each engine runs in its own process. The processes take turns page by page, so that drifts of the machine's speed affect all
of them, and medians are compared. Each peer has its own environment (pip 25.1 or later):

    python -m venv .venv-reference && .venv-reference/bin/pip install --upgrade pip
    .venv-reference/bin/pip install --group reference

    apt-get install tesseract-ocr tesseract-ocr-chi-sim            # Tesseract, on PATH

RapidOCR needs no environment: it is installed in ours, because it detects the lines of pages.

OpenVINO reads an export of the checkpoint. Only the export needs torch and torchvision; both must come from the same index:

    python -m venv .venv-openvino && .venv-openvino/bin/pip install --upgrade pip
    .venv-openvino/bin/pip install --group openvino
    .venv-openvino/bin/optimum-cli export openvino --model mindnlp_ocr/assets/qwen2vl-ocr-tiny \\
        --task image-text-to-text --weight-format fp32 build/openvino/fp32      # or int8, to build/openvino/int8

An export is computed in float32 (f32) unless its folder is followed by ":bf16", or by ":auto" for OpenVINO's own choice:
bfloat16 if the processor supports it, fewer bits for cached keys and values, and int8 products for int8 weights. OpenVINO
resizes images in a different way: if a side is not a multiple of 28, its tokens may differ from ours. Times are not compared
if the number of image tokens differs.

mindnlp runs in our own environment, with its own attention or with ours. It needs 15 s per page and runs only on request:

    uv run tools/benchmark_peers.py --mindnlp eager --mindnlp mindnlp_ocr_flash --peers none tests/pages/line_392x28.png

The text of page.png is compared with page.txt as with tools/evaluate.py --loose, since OCR engines differ in the spaces that
they put between Chinese characters. The built-in model was trained on pages like those of this project: use other pages to
compare accuracy. OCR engines generate no tokens, so they have no time to the first token. Tesseract is started for every
page, and its time includes the start. Exit status: 0; 1 if an engine stopped or could not read a page (the others continue);
2 for wrong usage.
"""

import argparse
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from mindnlp_ocr.bench import accuracy
from mindnlp_ocr.bench.peers import OURS, Absent, Peers, rapidocr_command, tesseract_command
from mindnlp_ocr.bench.results import Results
from mindnlp_ocr.bench.tool import finish, positive, ready, run_tool
from mindnlp_ocr.bench.truth import truth_of
from mindnlp_ocr.documents.source import expand
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.weights.quantize import WEIGHT_DTYPES

ROOT = Path(__file__).absolute().parent.parent
SERVE = ROOT / "tools" / "peers" / "peer.py"
PRECISIONS = ("f32", "bf16", "auto")
Commands = dict[str, list[str]]


def python(given: str | None, folder: str) -> str:
    """Return the interpreter of a peer's environment."""
    path = Path(given or ROOT / folder / "bin" / "python")
    if not path.is_file():
        raise Absent(f"{given or f'{folder}/bin/python'} is missing: --help starts with the commands that create it")
    return str(path)


def transformers(arguments: argparse.Namespace) -> Commands:
    return {"transformers": [python(arguments.peer_python, ".venv-reference"), str(SERVE), "transformers"]}


def openvino(arguments: argparse.Namespace) -> Commands:
    interpreter = python(arguments.openvino_python, ".venv-openvino")
    commands: Commands = {}
    for text in arguments.openvino_model or ["build/openvino/fp32"]:
        folder, _, precision = text.rpartition(":")
        folder, precision = (folder, precision) if folder else (text, PRECISIONS[0])
        if precision not in PRECISIONS:
            raise SetupError(f"--openvino-model {text}: {precision!r} is not one of {', '.join(PRECISIONS)}")
        path = Path(folder) if arguments.openvino_model else ROOT / folder
        if not (path / "openvino_language_model.xml").is_file():
            raise Absent(f"{folder} is not an export: --help starts with the command that creates it")
        name = f"openvino {path.name}:{precision}"
        if name in commands:
            raise SetupError(f"--openvino-model {text}: two exports have the name {name}: rename a folder")
        commands[name] = [interpreter, str(SERVE), "openvino", str(path), precision]
    return commands


def tesseract(arguments: argparse.Namespace) -> Commands:
    return {"tesseract": tesseract_command(SERVE, arguments.tesseract_psm)}


def rapidocr(arguments: argparse.Namespace) -> Commands:
    return {"rapidocr": rapidocr_command(SERVE)}


def mindnlp(arguments: argparse.Namespace) -> Commands:
    """Return the commands for --mindnlp; mindnlp never runs by default."""
    if arguments.mindnlp and importlib.util.find_spec("mindnlp") is None:
        raise SetupError("--mindnlp: mindnlp is not installed: run `pip install 'mindnlp-ocr[mindnlp]'`")
    return {f"mindnlp {kind}": [sys.executable, str(SERVE), "mindnlp", kind] for kind in arguments.mindnlp}


# Name -> function that returns the commands, and the options that request the peer.
PEERS: dict[str, tuple[Callable[[argparse.Namespace], Commands], tuple[str, ...]]] = {
    "transformers": (transformers, ("peer_python",)),
    "openvino": (openvino, ("openvino_python", "openvino_model")),
    "tesseract": (tesseract, ()),
    "rapidocr": (rapidocr, ()),
}


def commands(arguments: argparse.Namespace) -> Commands:
    """Return the command that starts each engine: ours and the requested peers, by default all available ones."""
    names = list(PEERS) if arguments.peers is None else [name for name in arguments.peers.split(",") if name != "none"]
    if unknown := set(names) - set(PEERS):
        raise SetupError(f"--peers contains {', '.join(sorted(unknown))}: use {', '.join(PEERS)} or none")
    found: Commands = {OURS: [sys.executable, str(SERVE), "ours", arguments.dtype]}
    for name in names:
        start, options = PEERS[name]
        try:
            found |= start(arguments)
        except Absent as error:
            if arguments.peers is not None or any(getattr(arguments, option) for option in options):
                raise SetupError(f"{name}: {error}") from error
            print(f"{name} is skipped: {error}", file=sys.stderr)
    return found | mindnlp(arguments)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", help="files, folders or patterns (default: examples/)")
    parser.add_argument("--peers", metavar="A,B", help=f"{', '.join(PEERS)} or none (default: all available peers)")
    parser.add_argument("--peer-python", metavar="FILE", help="Python interpreter of an environment with transformers")
    parser.add_argument("--openvino-python", metavar="FILE", help="Python interpreter of an environment with openvino-genai")
    parser.add_argument(
        "--tesseract-psm",
        type=positive,
        default=6,
        metavar="N",
        help="Tesseract's page segmentation mode (default: 6, one block of lines, which suits the pages of this project); "
        "Tesseract's own default, 3, reads the columns of a form one after another",
    )
    parser.add_argument(
        "--openvino-model",
        metavar="FOLDER[:PRECISION]",
        action="append",
        help=f"an export for OpenVINO, and the precision of its computation: {', '.join(PRECISIONS)}; may be repeated "
        "(default: build/openvino/fp32:f32)",
    )
    parser.add_argument(
        "--mindnlp",
        choices=("eager", "mindnlp_ocr_flash"),
        action="append",
        default=[],
        help="also run mindnlp's Qwen2-VL, with its own attention or ours; may be repeated",
    )
    parser.add_argument(
        "--dtype", choices=("auto", *WEIGHT_DTYPES), default="auto", help="dtype of our weights (default: auto)"
    )
    parser.add_argument(
        "--runs", type=positive, default=5, help="number of measured runs per page, after a warm-up run (default: 5)"
    )
    parser.add_argument("--output", metavar="FILE", help="write the figures to FILE as JSON")
    parser.add_argument("--report", metavar="DIR", type=Path, help="write report.md, report.html and plots to DIR")
    parser.add_argument("--smoke", action="store_true", help="only check that everything runs: one run, one small page")
    arguments = parser.parse_args()
    names = [str(ROOT / "tests" / "pages" / "word_56x56.png")] if arguments.smoke else arguments.images
    pages = [page for name in names or [str(ROOT / "examples")] for page in expand(name)]
    found = {page: truth_of(Path(page)) for page in pages}
    truths = {page: truth.text if truth else None for page, truth in found.items()}
    ready(arguments)
    runs = 1 if arguments.smoke else arguments.runs
    results, engines = Results.start(smoke=arguments.smoke), Peers(commands(arguments))
    about = (
        f"Times are medians of {runs} runs in turns after a warm-up run, and ratios are multiples of our time. Engines that "
        "generate no tokens have no times per token. There is no ratio if the number of prompt tokens differs from ours. "
        "Tesseract's times include the start of its process."
    )
    try:
        measured = (row for page in pages for row in engines.compare(page, truths[page], runs))
        results.add("pages", "Comparison with peers", measured, about)
        results.add("totals", "All pages", engines.totals(), f"{accuracy.ABOUT} {accuracy.LOOSE}")
    finally:
        engines.close()
    finish(results, arguments)
    return 1 if engines.failures else 0


if __name__ == "__main__":
    run_tool(main)
