"""What every process of a farm has to know."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

FOLDER = "_farm"  # what a run keeps beside its results, and needs to go on
READER = "mindnlp_ocr.farm.reading:PageReader"
READER_IN_PARTS = "mindnlp_ocr.farm.in_parts:PartsReader"

Wanted = tuple[str, str, Sequence[int]]  # of a reader: a document's name and place, and the indices of its pages

# Options that alter what is written: a run goes on only with the same ones.
DECISIVE = (
    *("model", "lora", "layout", "prompt", "max_new_tokens", "max_length", "min_pixels", "max_pixels", "dtype", "kv_dtype"),
    *("attn", "preset", "skip_furniture", "pages", "dpi", "text_layer", "min_confidence", "format", "pages_per_task"),
    "tensor_parallel",
)


def _digest(preset: str | None) -> str | None:
    """Of a preset's file; None where it is one of ours, or missing, which is said where it is read."""
    path = Path(preset or "")
    return sha256(path.read_bytes()).hexdigest() if path.is_absolute() and path.is_file() else None


@dataclass(frozen=True)
class FarmSettings:
    """The settings of one run.

    Attributes:
        output: the URI of the folder that is written.
        arguments: the options of the command line, by their names.
        run: what tells this run from the others that wrote the same output.
        reader: the class that reads pages, as "module:name".
    """

    output: str
    arguments: dict[str, Any] = field(repr=False)
    run: str = ""
    reader: str = READER

    @property
    def format(self) -> str | None:
        """Of a file for each document; None where pages go to Parquet."""
        value: str | None = self.arguments["format"]
        return value

    @property
    def parts(self) -> str:
        """The folder of what was read."""
        return "pages" if self.format is None else f"{FOLDER}/parts"

    def namespace(self) -> Namespace:
        """The options as :func:`mindnlp_ocr.opening.load_model` takes them."""
        return Namespace(**self.arguments)

    def decisive(self) -> dict[str, Any]:
        """The options that alter what is written."""
        options = {name: self.arguments.get(name) for name in DECISIVE}
        return options | {"the content of its preset": _digest(options["preset"])}

    def new_reader(self) -> Any:
        """What reads pages in this process; SetupError where the model cannot be loaded."""
        module, _, name = self.reader.partition(":")
        return getattr(import_module(module), name)(self)
