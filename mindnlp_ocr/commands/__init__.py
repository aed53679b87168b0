"""The table of the commands of ``mindnlp-ocr``, and the modules of those that belong to no other package."""

import argparse
from collections.abc import Sequence
from importlib import import_module

from mindnlp_ocr.errors import SetupError

# Name of the command -> module whose `main(argv)` returns the exit status, and description for --help.
COMMANDS = {
    "serve": ("server.command", "serve the OpenAI API, documents and a web page over HTTP"),
    "batch": ("farm.command", "read millions of pages on a Ray cluster"),
    "convert": ("commands.convert", "change the format or dtype of a checkpoint, or merge an adapter into it"),
    "export": ("commands.export", "export a model as MindIR graphs"),
    "selftest": ("commands.selftest", "compare every operator of this machine with float64"),
    "evaluate": ("commands.evaluate", "measure error rates on pages whose text is known"),
    "forecast": ("commands.forecast_memory", "print how much memory a model needs"),
    "benchmark comparison": ("commands.benchmark_comparison", "compare speed and memory with the cache on and off"),
    "benchmark kv-cache": ("commands.benchmark_kv_cache", "measure latency, cache hits, batches and memory"),
    "benchmark report": ("commands.benchmark_report", "write a report with plots from measured figures"),
}


def run_command(argv: Sequence[str]) -> int | None:
    """Run the command named by the first words of ``argv``. Returns its exit status, or None if there is no such command.

    Raises:
        SetupError: the name of the benchmark or an optional package is missing.
    """
    for command, (module, _) in COMMANDS.items():
        words = command.split()
        if list(argv[: len(words)]) == words:
            try:
                status: int = import_module(f"mindnlp_ocr.{module}").main(argv[len(words) :])
            except ModuleNotFoundError as error:
                missing = str(error.name).split(".")[0]
                if missing not in ("rapidfuzz", "matplotlib"):
                    raise
                raise SetupError(
                    f"{missing} is not installed: run `pip install 'mindnlp-ocr[bench]'`", code="package_missing"
                ) from error
            return status
    if argv and argv[0] == "benchmark":
        raise SetupError("no benchmark is named: use comparison, kv-cache or report", code="benchmark_not_named")
    return None


def listed() -> str:
    """Return the list of commands for --help, one line each."""
    return "\n".join(f"  {command:<22}{about}" for command, (_, about) in COMMANDS.items())


def command_parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser for a command. Its help begins with ``description``, usually the docstring of the module."""
    formatter = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(prog=f"mindnlp-ocr {command}", description=description, formatter_class=formatter)
