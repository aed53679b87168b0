"""MindIR graphs without weights: loaded graphs share weights and KV slots as parameters.

The path of our library of CPU operators is also removed from the graphs, since it differs between machines.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mindspore as ms
import ml_dtypes
import numpy as np
from google.protobuf.message import DecodeError
from mindspore import Parameter, Tensor, nn
from mindspore.train.mind_ir_pb2 import ModelProto, TensorProto

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.ops import native

LIBRARY = b"mindnlp_ocr's CPU operators"  # placeholder for the path of the library
DTYPES: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    TensorProto.INT8: np.dtype(np.int8),
    TensorProto.INT32: np.dtype(np.int32),
}

Form = tuple[tuple[int, ...], str]  # shape and dtype


def write(cell: nn.Cell, inputs: Sequence[Tensor], path: Path) -> None:
    """Compile a cell for inputs of these shapes and dtypes, and write its graph.

    Raises:
        SetupError: MindSpore cannot export the graph.
    """
    graph = ModelProto()

    def kept(model: Any) -> None:
        graph.CopyFrom(model)
        del model.graph.parameter[:]  # omit the weights, which may be gigabytes

    with tempfile.TemporaryDirectory() as folder:
        try:
            ms.export(cell, *inputs, file_name=f"{folder}/graph", file_format="MINDIR", custom_func=kept)
        except (RuntimeError, ValueError, TypeError) as error:
            raise SetupError(
                f"MindSpore {ms.__version__} cannot export {path.stem} ({native.explain(error)}): report this error",
                code="mindspore_export_failed",
            ) from error
    _replace_library(graph, str(native.LIBRARY).encode(), LIBRARY)
    path.write_bytes(graph.SerializeToString(deterministic=True))


def load(path: Path, inputs: Mapping[str, Form], parameters: Mapping[str, Parameter]) -> nn.Cell:
    """Load a graph as a cell that shares the memory of these parameters.

    Raises:
        SetupError: the file is damaged, or does not match the manifest.
    """
    graph = ModelProto()
    try:
        graph.ParseFromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise SetupError(
            f"{path} is missing or not a MindIR file ({error}): copy the exported folder again", code="export_damaged"
        ) from error
    found = {_short(value.name): _form(value.tensor[0]) for value in graph.graph.input if value.tensor}
    if found != dict(inputs):
        raise SetupError(
            f"{path} takes {found}, but export.json says {dict(inputs)}: export the model again", code="export_mixed"
        )
    for parameter in graph.graph.parameter:
        name, form = _short(parameter.name), _form(parameter)
        if name not in parameters:
            raise SetupError(
                f"{path} needs {name}, which the folder does not contain: export the model again", code="export_mixed"
            )
        if (held := form_of(parameters[name])) != form:
            raise SetupError(
                f"{path} takes {name} as {form}, but the folder contains {held}: export the model again", code="export_mixed"
            )
    _replace_library(graph, LIBRARY, str(native.LIBRARY).encode())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "graph.mindir"
        file.write_bytes(graph.SerializeToString())
        try:
            cell = nn.GraphCell(ms.load(str(file)), params_init=dict(parameters))
        except (RuntimeError, ValueError, TypeError) as error:
            raise SetupError(
                f"MindSpore {ms.__version__} cannot load {path} ({native.explain(error)}): export again with this release",
                code="mindspore_load_failed",
            ) from error
    for name, own in cell.parameters_dict().items():
        own.set_data(parameters[name], slice_shape=True)  # replaces the graph's own copy
    return cell


def form_of(parameter: Parameter) -> Form:
    return tuple(parameter.shape), str(parameter.dtype).lower()


def _form(tensor: Any) -> Form:
    dtype = DTYPES.get(tensor.data_type)
    return tuple(tensor.dims), str(tensor.data_type) if dtype is None else dtype.name


def _short(name: str) -> str:
    """Remove the name of the graph, which MindIR puts before a colon."""
    return name.rpartition(":")[2]


def _replace_library(graph: Any, old: bytes, new: bytes) -> None:
    for primitive in graph.primitives:
        for attribute in primitive.attribute:
            if old in attribute.s:
                attribute.s = attribute.s.replace(old, new)
