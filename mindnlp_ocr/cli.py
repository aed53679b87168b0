"""The command line ``mindnlp-ocr``: it reads pages (``mindnlp-ocr page.png``) or runs another command."""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mindnlp_ocr import opening
from mindnlp_ocr.cluster.parts import read_in_parts, settle
from mindnlp_ocr.cluster.shard import Shard, note_failures
from mindnlp_ocr.commands import listed, run_command
from mindnlp_ocr.errors import PageError, SetupError, coded
from mindnlp_ocr.options import Parser, check, check_parts, parser
from mindnlp_ocr.output import Output, Printer, print_report, result, status
from mindnlp_ocr.parallel.launch import Launch
from mindnlp_ocr.settings import parsed

ALL = Shard()
DEFAULT_PROMPT = "Extract all text from this image."


def main(argv: Sequence[str] | None = None) -> int:
    """Read the pages named by ``argv``, or run the command with which it begins. Returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        if (status := run_command(argv)) is not None:
            return status
        arguments = parsed(reading(), argv[1:] if argv and argv[0] == "infer" else argv)
        with warnings.catch_warnings():
            warnings.showwarning = warn
            return _run(arguments)
    except SetupError as error:
        print(f"error: {coded(error, error.code)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of the output has exited, for example `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def reading() -> Parser:
    """Return the parser for reading pages, with a list of the other commands in its help text."""
    options = parser()
    first = "commands (see `mindnlp-ocr COMMAND --help`):\n  infer                 read pages, as without a command"
    options.epilog = f"{first}\n{listed()}\n\n{options.epilog}"
    return options


def warn(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _run(arguments: argparse.Namespace) -> int:
    names = [*arguments.images, *arguments.image]
    if not names:
        raise SetupError("no document is named: pass files, folders or patterns (see --help)", code="document_not_named")
    check(arguments)
    from mindnlp_ocr.documents.source import expand

    paths = [path for name in names for path in expand(name)]
    launch = Launch.from_environment()
    if launch is not None or arguments.tensor_parallel != 1:
        settle(arguments, launch)
    if arguments.tensor_parallel != 1:
        check_parts(arguments)
        return read_in_parts(arguments, paths, launch, read)
    shard = Shard.choose(arguments.shard, launch, arguments.output_dir)
    if launch is None:
        return read_documents(arguments, paths, shard)
    if launch.scheduler:  # not needed by independent workers
        return 0
    status = read_documents(arguments, paths, shard)
    note_failures(status, arguments.output_dir, shard)
    return 0  # even if pages failed, because msrun kills all workers when one fails


def read_documents(arguments: argparse.Namespace, names: Sequence[str], shard: Shard = ALL) -> int:
    """Read documents, or a shard of them, in this process. Returns the exit status."""
    from mindnlp_ocr.documents.files import OutputFolder
    from mindnlp_ocr.documents.run import FolderTarget, OneTarget, Target, run
    from mindnlp_ocr.documents.selection import PageSelection
    from mindnlp_ocr.documents.stream import DocumentStream
    from mindnlp_ocr.documents.writers import FORMATS as WRITERS

    selection = PageSelection(arguments.pages)
    if arguments.output and arguments.output_dir:
        raise SetupError("--output and --output-dir are both given: use only one of the two", code="options_conflict")
    if arguments.resume and not arguments.output_dir:
        raise SetupError(
            "--resume skips the finished files of a folder: add --output-dir DIR as well", code="resume_without_folder"
        )
    several = len(names) > 1
    if arguments.output_dir:
        folder = OutputFolder(arguments.output_dir, WRITERS[arguments.format].suffix, names, arguments.resume)
        names = [name for name in shard.of(names) if folder.wanted(name)]
        target: Target = FolderTarget(arguments.format, folder)
    else:
        if several and WRITERS[arguments.format].one_document:
            raise SetupError(
                f"a {arguments.format} file contains one document, but {len(names)} are named: add --output-dir DIR",
                code="format_one_document",
            )
        if arguments.format == "pdf" and arguments.output is None and sys.stdout.isatty():
            raise SetupError("a PDF would be written to the terminal: add --output FILE", code="pdf_to_terminal")
        target = OneTarget(arguments.format, arguments.output, several)
    if arguments.cache_dir and shard != ALL:
        arguments.cache_dir = str(Path(arguments.cache_dir) / f"shard-{shard.index}")
    try:
        model = opening.load_model(arguments)
        reader = opening.new_reader(model, arguments)
    except BaseException:
        target.abort()
        raise
    if arguments.cache_dir:
        model.load_cache(arguments.cache_dir)
    to_terminal = sys.stdout.isatty() and not (arguments.output or arguments.output_dir)
    try:
        good = run(
            DocumentStream(reader, selection, arguments.dpi, arguments.password, arguments.text_layer),
            reader,
            names,
            target,
            visualize=Path(arguments.visualize) if arguments.visualize else None,
            password=arguments.password,
            progress=sys.stderr.isatty() and not to_terminal,
            about=lambda: {"model": model.get_model_info(), "cache": model.get_cache_stats()},
        )
    finally:
        if arguments.cache_dir:
            model.save_cache(arguments.cache_dir)
    if arguments.stats:
        print(json.dumps(model.get_cache_stats(), indent=2), file=sys.stderr)
    return 0 if good else 1


def read(arguments: argparse.Namespace, paths: Sequence[str]) -> int:
    """Read image files as whole pages in this process, which may be a worker of a split model. Returns the exit status."""
    with Output(arguments.output) as output:
        model = opening.load_model(arguments)
        if arguments.cache_dir:
            model.load_cache(arguments.cache_dir)
        as_json = arguments.format == "json"
        results = []
        # No progress bar while text is streamed to the terminal.
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


def read_pages(
    model: Any, paths: Sequence[str], arguments: argparse.Namespace, printer: Printer | None
) -> Iterator[dict[str, Any]]:
    """Yield the entry of every page in the JSON report, in order. A PageError becomes part of the entry."""

    def messages(path: str) -> list[dict[str, Any]]:
        content = [{"type": "image", "image": path}, {"type": "text", "text": arguments.prompt or DEFAULT_PROMPT}]
        return [{"role": "user", "content": content}]

    if arguments.batch_size in (None, 1):
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
