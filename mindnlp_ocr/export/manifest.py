"""The description of an exported folder in export.json."""

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

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]  # name of a file directly in the folder
Positive = Annotated[int, Field(gt=0)]
Graph = Literal["vision", "prefill", "decode", "sample", "copy"]  # the last two only if an NPU needs them


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Array(_Model):
    """An input or a parameter of a graph."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # NumPy's name, or bfloat16


class ExportedGraph(_Model):
    """One compiled form of a graph.

    ``bucket`` is its number of patches, of tokens, of requests that it decodes or samples, or of slots that it copies.
    """

    graph: Graph
    bucket: Positive
    file: Name
    sha256: str
    inputs: tuple[Array, ...]


class Manifest(_Model):
    """Everything on which the exported graphs depend."""

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
    fingerprint: str  # fingerprint of the checkpoint with its adapter
    graphs: tuple[ExportedGraph, ...]
    parameters: tuple[Array, ...]
    parameter_files: tuple[Name, ...]

    def of(self, graph: Graph) -> dict[int, ExportedGraph]:
        """Return the forms of a graph by bucket, in ascending order."""
        found = {entry.bucket: entry for entry in self.graphs if entry.graph == graph}
        return dict(sorted(found.items()))

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read the manifest of an exported folder.

        Raises:
            SetupError: the manifest is damaged, or another release wrote it.
        """
        raw = read_json(folder / FILE)
        again = "export the model again"
        if raw.get("format") != FORMAT:
            raise SetupError(
                f"{folder / FILE} has format {raw.get('format')!r}, but this release reads {FORMAT!r}: {again}",
                code="export_of_other_release",
            )
        if raw.get("mindnlp_ocr") != __version__:
            raise SetupError(
                f"{folder} was exported by mindnlp_ocr {raw.get('mindnlp_ocr')}, but this is {__version__}: {again}",
                code="export_of_other_release",
            )
        try:
            manifest = cls(**raw)
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(str(part) for part in fault["loc"])
            raise SetupError(
                f"{folder / FILE} cannot be used: {where}: {fault['msg']}: {again}", code="export_damaged"
            ) from error
        if missing := {"vision", "prefill", "decode"} - {entry.graph for entry in manifest.graphs}:
            raise SetupError(
                f"{folder / FILE} lists no {' and no '.join(sorted(missing))} graph: {again}", code="export_damaged"
            )
        return manifest
