"""Settings from a YAML file, converted to command-line options."""

import argparse
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, ValidationError, create_model

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.options import Parser

NOT_IN_A_FILE = ("images", "image", "config", "help", "version")


def parsed(parser: Parser, argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line. Options from its ``--config`` file are parsed first, so that the command line overrides them.

    Raises:
        SetupError: see :func:`settings`.
    """
    arguments = parser.parse_args(argv)
    if arguments.config:
        arguments = parser.parse_args([*settings(Path(arguments.config), parser.options), *argv])
    return arguments


def settings(path: Path, options: Sequence[argparse.Action]) -> list[str]:
    """Read a settings file and return its settings as command-line arguments. A setting has the name of its option.

    Raises:
        SetupError: the file cannot be read, a setting is unknown, or a value is not valid for its option.
    """
    import yaml  # imported only when there is such a file

    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise SetupError(
            f"--config {path} cannot be read ({reason}): pass a YAML file such as configs/cpu.yaml",
            code="settings_unreadable",
        ) from error
    if not isinstance(given, dict):
        raise SetupError(f"--config {path} contains no settings: write lines such as `dtype: int8`", code="settings_empty")
    known = [option for option in options if option.dest not in NOT_IN_A_FILE]
    names = {option.option_strings[-1].removeprefix("--"): option for option in known}
    fields: dict[str, Any] = {name: (_type(option) | None, None) for name, option in names.items()}
    # Strict validation: a quoted number, or `yes` in place of a number, is a mistake.
    model = create_model("Settings", __config__=ConfigDict(extra="forbid", strict=True), **fields)
    try:
        model(**{str(name): value for name, value in given.items()})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, names, 1)
            reason = f"unknown setting {name!r}" + (f": did you mean {near[0]}?" if near else "")
        else:
            reason = f"{name} is {given[name]!r}: {first['msg'].replace('Input should be', 'use')}"
        raise SetupError(f"--config {path}: {reason}", code="setting_invalid") from error
    flags = [f"--{name}" for name, value in given.items() if value is True]
    return flags + [f"--{name}={value}" for name, value in given.items() if value is not None and type(value) is not bool]


def _type(option: argparse.Action) -> Any:
    if option.nargs == 0:  # a flag
        return bool
    if option.choices is not None:
        return Literal[tuple(option.choices)]
    if option.type is None:
        return str
    return option.type if isinstance(option.type, type) else Any  # argparse checks the remaining types
