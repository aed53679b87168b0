"""The settings of a farm, which are sent to all its processes."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

FOLDER = "_farm"  # state of the run in the output folder, needed to resume it
READER = "mindnlp_ocr.farm.reading:PageReader"
READER_IN_PARTS = "mindnlp_ocr.farm.in_parts:PartsReader"

Wanted = tuple[str, str, Sequence[int]]  # name and location of a document, and the indices of its pages

# Options that change the output: a run can only be resumed with the same values.
DECISIVE = (
    *("model", "lora", "layout", "prompt", "max_new_tokens", "max_length", "min_pixels", "max_pixels", "dtype", "kv_dtype"),
    *("attn", "preset", "skip_furniture", "pages", "dpi", "text_layer", "min_confidence", "format", "pages_per_task"),
    "tensor_parallel",
)


def _digest(preset: str | None) -> str | None:
    """Return the SHA-256 of a preset file; None for a built-in preset or a missing file, which is reported elsewhere."""
    path = Path(preset or "")
    return sha256(path.read_bytes()).hexdigest() if path.is_absolute() and path.is_file() else None


@dataclass(frozen=True)
class FarmSettings:
    """The settings of one run.

    Attributes:
        output: URI of the output folder.
        arguments: the options of the command line by name.
        run: unique name of this run.
        reader: the class that reads pages, as "module:name".
    """

    output: str
    arguments: dict[str, Any] = field(repr=False)
    run: str = ""
    reader: str = READER

    @property
    def format(self) -> str | None:
        """Output format of the document files; None for Parquet."""
        value: str | None = self.arguments["format"]
        return value

    @property
    def parts(self) -> str:
        """Name of the folder for the results of tasks."""
        return "pages" if self.format is None else f"{FOLDER}/parts"

    def namespace(self) -> Namespace:
        """Return the options in the form that :func:`mindnlp_ocr.opening.load_model` accepts."""
        return Namespace(**self.arguments)

    def decisive(self) -> dict[str, Any]:
        """Return the options that change the output."""
        options = {name: self.arguments.get(name) for name in DECISIVE}
        return options | {"the content of its preset": _digest(options["preset"])}

    def new_reader(self) -> Any:
        """Return a new reader of pages in this process. Raises SetupError if the model cannot be loaded."""
        module, _, name = self.reader.partition(":")
        return getattr(import_module(module), name)(self)
