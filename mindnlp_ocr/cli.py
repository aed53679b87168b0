"""The command line that reads pages: ``mindnlp-ocr page.png`` and ``tools/infer.py page.png``."""

import argparse
import glob
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

from mindnlp_ocr import __version__
from mindnlp_ocr.cache.config import DEFAULT_SLOTS, KV_DTYPES, CacheConfig, get_optimal_cache_config
from mindnlp_ocr.cluster.launch import Launch
from mindnlp_ocr.errors import PageError, SetupError
from mindnlp_ocr.output import Output, Printer, print_report, result, status
from mindnlp_ocr.settings import settings
from mindnlp_ocr.weights.quantize import WEIGHT_DTYPES

DEFAULT_PROMPT = "Extract all text from this image."
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif"}

EPILOG = """\
examples:
  %(prog)s page.png                                 print the text of a page as it is read
  %(prog)s scans/ 'more/*.jpg' --output pages.txt    a folder and a pattern, into a file
  %(prog)s scans/ --batch-size 8 --stats             several pages at a time, and what the cache did
  msrun --worker_num 4 --local_worker_num 4 --join True %(prog)s scans/ --output pages.txt
  %(prog)s page.png --format json | jq .results      tokens, timings and statistics

exit status: 0 every page was read; 1 some were not (the others are); 2 wrong usage, or a model or device that
cannot be used
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Read the pages that ``argv`` names; returns the exit status."""
    options, argv = parser(), sys.argv[1:] if argv is None else argv
    arguments = options.parse_args(argv)
    try:
        if arguments.config:  # as if its settings stood before all others
            arguments = options.parse_args([*settings(Path(arguments.config), options.options), *argv])
        with warnings.catch_warnings():
            warnings.showwarning = warn
            return _run(arguments)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def warn(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    def __init__(self, **arguments: Any) -> None:
        self.options: list[argparse.Action] = []
        super().__init__(**arguments)

    def add_argument(self, *names: Any, **arguments: Any) -> argparse.Action:
        self.options.append(super().add_argument(*names, **arguments))
        return self.options[-1]

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see --help)\n")


def parser() -> _Parser:
    """The options."""
    parser = _Parser(
        description="Read the text of images with Qwen2-VL on MindSpore.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="image files, folders or patterns such as 'scans/*.png'")
    parser.add_argument("--image", action="append", default=[], metavar="FILE", help="one more image; may be repeated")
    parser.add_argument(
        "--config", metavar="FILE", help="settings, such as configs/cpu.yaml; options given here win over it"
    )
    add_options(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="what to print (default: text)")
    parser.add_argument("--output", metavar="FILE", help="write there instead of to standard output")
    parser.add_argument("--stats", action="store_true", help="print the cache's statistics to standard error at the end")
    parser.add_argument("--cache-dir", metavar="DIR", help="keep what the cache holds there, for the next run")
    parser.add_argument(
        "--tensor-parallel",
        type=int,
        default=1,
        metavar="N",
        help="hold the language model in N parts, under msrun with N workers (default: 1; the workers share the pages)",
    )
    parser.add_argument("--version", action="version", version=f"mindnlp-ocr {__version__}")
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which model reads, and how: what :func:`load_model` and :func:`read_pages` take, but for a model in parts."""
    parser.add_argument(
        "--model",
        metavar="PATH",
        help="a Qwen2-VL folder, merged .npz or exported folder (default: the built-in small model)",
    )
    parser.add_argument("--lora", metavar="DIR", help="a LoRA adapter of the model, as PEFT saves it")
    parser.add_argument("--device", default="cpu", help="cpu, npu:0 or Ascend (default: cpu)")
    parser.add_argument(
        "--jit-level", choices=("O0", "O1"), default="O0", help="of every graph; O1 fuses operators (default: O0)"
    )
    parser.add_argument(
        "--deterministic", action="store_true", help="the same bits every time on an NPU too (a CPU gives them)"
    )
    parser.add_argument("--memory-limit-gb", type=float, metavar="N", help="bound on an NPU's memory")
    parser.add_argument(
        "--prompt", default=DEFAULT_PROMPT, metavar="TEXT", help=f"what to ask (default: {DEFAULT_PROMPT!r})"
    )
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer (default: the model's own)")
    parser.add_argument("--max-length", type=int, metavar="N", help="tokens of a KV slot, prompt and answer together")
    parser.add_argument("--min-pixels", type=int, metavar="N", help="enlarge smaller images to this area")
    parser.add_argument("--max-pixels", type=int, metavar="N", help="shrink larger images to this area")
    parser.add_argument(
        "--batch-size", type=int, default=1, metavar="N", help="read N pages at a time, with the same text (default: 1)"
    )
    parser.add_argument(
        "--cache-size-mb", type=float, metavar="N", help="bound on the KV cache and image features (default: by device)"
    )
    parser.add_argument(
        "--kv-dtype", choices=KV_DTYPES, default="fp32", help="what keys and values are held in (default: fp32)"
    )
    parser.add_argument("--no-kv-cache", action="store_true", help="run the whole prompt again for every token (slow)")
    parser.add_argument(
        "--attn",
        choices=("auto", "eager", "flash"),
        default="auto",
        help="attention: flash (memory grows with the page, not its square), eager (MindSpore's own operators), or auto: "
        "flash where it is supported, but on an NPU eager (default: auto)",
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", *WEIGHT_DTYPES),
        default="auto",
        help="what weights are held in (default: auto, as the checkpoint stores them); int8 rounds, the others give the "
        "text of fp32",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU (default: all cores that the process may use)")
    parser.set_defaults(tensor_parallel=1)


def _run(arguments: argparse.Namespace) -> int:
    names = [*arguments.images, *arguments.image]
    if not names:
        raise SetupError("no image is named: give files, folders or patterns (see --help)")
    check(arguments)
    paths = [path for name in names for path in expand(name)]
    if (launch := Launch.from_environment()) is not None or arguments.tensor_parallel != 1:
        from mindnlp_ocr.cluster import pages

        return pages.run(arguments, paths, launch)
    return read(arguments, paths)


def check(arguments: argparse.Namespace) -> None:
    """Refuse numbers that nothing can be read with."""
    if arguments.max_new_tokens is not None and arguments.max_new_tokens < 1:
        raise SetupError(f"--max-new-tokens is {arguments.max_new_tokens}: give 1 or more")
    if arguments.batch_size < 1:
        raise SetupError(f"--batch-size is {arguments.batch_size}: give 1 or more")


def read(arguments: argparse.Namespace, paths: Sequence[str]) -> int:
    """Read pages in this process."""
    with Output(arguments.output) as output:
        model = load_model(arguments)
        if arguments.cache_dir:
            model.load_cache(arguments.cache_dir)
        as_json = arguments.format == "json"
        results = []
        # A bar on the terminal only where no text streams to it.
        quiet = len(paths) == 1 or not sys.stderr.isatty() or (sys.stdout.isatty() and output is sys.stdout and not as_json)
        printer = None if as_json else Printer(output, heads=len(paths) > 1)
        try:
            pages = read_pages(model, paths, arguments, printer)
            for page in tqdm(pages, total=len(paths), unit="page", file=sys.stderr, disable=quiet):
                results.append(page)
        finally:
            if arguments.cache_dir:
                model.save_cache(arguments.cache_dir)
        if as_json:
            print_report(output, results, model.get_model_info(), model.get_cache_stats())
        if arguments.stats:
            print(json.dumps(model.get_cache_stats(), indent=2), file=sys.stderr)
    return status(results)


def expand(name: str) -> list[str]:
    """The images that a file, a folder or a pattern names; what names none is kept, to fail as a page of its own."""
    path = Path(name)
    if os.path.isdir(name):  # noqa: PTH112 - unlike Path, it takes any string: a name too long, a data URL
        found = sorted(str(file) for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
        return found or [name]
    if not os.path.exists(name) and glob.has_magic(name):  # noqa: PTH110
        return sorted(glob.glob(name, recursive=True)) or [name]
    return [name]


def load_model(arguments: argparse.Namespace) -> Any:
    from mindnlp_ocr.ops.device import Device

    device = Device.parse(
        arguments.device,
        jit_level=arguments.jit_level,
        deterministic=arguments.deterministic,
        memory_limit_gb=arguments.memory_limit_gb,
    )
    device.check()  # before MindSpore is imported: it takes seconds
    from mindnlp_ocr.models.qwen2vl import EMBEDDED, Qwen2VLModel

    size = arguments.cache_size_mb
    if size is None:
        size = get_optimal_cache_config(arguments.device).max_cache_size_mb
    config = CacheConfig(
        enable_kv_cache=not arguments.no_kv_cache,
        max_cache_size_mb=size,
        kv_dtype=arguments.kv_dtype,
        slots=arguments.batch_size if arguments.batch_size > DEFAULT_SLOTS else None,
    )
    return Qwen2VLModel(
        arguments.model or EMBEDDED,
        device,
        arguments.lora,
        cache_config=config,
        max_length=arguments.max_length,
        max_new_tokens=arguments.max_new_tokens,
        min_pixels=arguments.min_pixels,
        max_pixels=arguments.max_pixels,
        attn=arguments.attn,
        threads=arguments.threads,
        dtype=arguments.dtype,
        tensor_parallel=arguments.tensor_parallel,
    )


def read_pages(
    model: Any, paths: Sequence[str], arguments: argparse.Namespace, printer: Printer | None
) -> Iterator[dict[str, Any]]:
    """Every page as the JSON report has it, in order; an error that is a page's own is reported, not raised."""

    def messages(path: str) -> list[dict[str, Any]]:
        content = [{"type": "image", "image": path}, {"type": "text", "text": arguments.prompt}]
        return [{"role": "user", "content": content}]

    if arguments.batch_size == 1:
        for path in paths:
            if printer is not None:
                printer.begin(path)
            try:
                outcome = model.generate(messages(path), on_text=printer.write if printer is not None else None)
            except PageError as error:
                outcome = error
            if printer is not None:
                printer.end()
            yield result(path, outcome)
        return
    ended: dict[int, Any] = {}
    shown = 0
    for number, outcome in model.generate_batch(map(messages, paths), batch_size=arguments.batch_size):
        ended[number] = outcome
        while shown in ended:
            path, outcome = paths[shown], ended.pop(shown)
            page = result(path, outcome)
            if printer is not None:
                printer.page(page)
            yield page
            shown += 1


if __name__ == "__main__":
    sys.exit(main())
