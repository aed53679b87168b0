"""What an exported folder says of itself, in export.json."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mindnlp_ocr import __version__
from mindnlp_ocr.backends.select import Implementation
from mindnlp_ocr.config import read_json
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.ops.device import Kind
from mindnlp_ocr.weights.quantize import WeightDtype

FILE = "export.json"
FORMAT: Literal["mindnlp_ocr.export 1"] = "mindnlp_ocr.export 1"

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]  # of a file in the folder itself
Positive = Annotated[int, Field(gt=0)]
Graph = Literal["vision", "prefill", "decode", "sample"]  # the last only where logits stay on the device


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Array(_Model):
    """An input or a parameter of a graph."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # NumPy's name, or bfloat16


class ExportedGraph(_Model):
    """One compiled form: ``bucket`` is its patches, its tokens, or the texts that it decodes or samples at
    once."""

    graph: Graph
    bucket: Positive
    file: Name
    sha256: str
    inputs: tuple[Array, ...]


class Manifest(_Model):
    """Everything that the graphs were made for."""

    format: Literal["mindnlp_ocr.export 1"]
    mindnlp_ocr: str
    mindspore: str
    device: Kind
    attention: Implementation
    dtype: WeightDtype
    kv_dtype: str
    slots: Positive
    max_length: Positive
    min_pixels: Positive
    max_pixels: Positive
    max_new_tokens: Positive
    fingerprint: str  # of the checkpoint, and of the adapter in it
    graphs: tuple[ExportedGraph, ...]
    parameters: tuple[Array, ...]
    parameter_files: tuple[Name, ...]

    def of(self, graph: Graph) -> dict[int, ExportedGraph]:
        """The forms of a graph by their buckets, ascending."""
        found = {entry.bucket: entry for entry in self.graphs if entry.graph == graph}
        return dict(sorted(found.items()))

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Of an exported folder.

        Raises:
            SetupError: it is damaged, or from another version.
        """
        raw = read_json(folder / FILE)
        again = "export the model again"
        if raw.get("format") != FORMAT:
            raise SetupError(f"{folder / FILE} is of format {raw.get('format')!r}, this release reads {FORMAT!r}: {again}")
        if raw.get("mindnlp_ocr") != __version__:
            raise SetupError(
                f"{folder} was exported by mindnlp_ocr {raw.get('mindnlp_ocr')}, this is {__version__}: {again}"
            )
        try:
            manifest = cls(**raw)
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(str(part) for part in fault["loc"])
            raise SetupError(f"{folder / FILE} cannot be used: {where}: {fault['msg']}: {again}") from error
        if missing := {"vision", "prefill", "decode"} - {entry.graph for entry in manifest.graphs}:
            raise SetupError(f"{folder / FILE} names no {' and no '.join(sorted(missing))} graph: {again}")
        return manifest
