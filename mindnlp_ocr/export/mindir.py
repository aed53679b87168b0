"""A graph as MindIR that holds no weights: they and the KV slots are parameters that all graphs share when they are loaded.

Nor does it hold the path of our library of CPU operators, which differs from machine to machine.
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

LIBRARY = b"mindnlp_ocr's CPU operators"  # in place of its path
DTYPES: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    TensorProto.INT8: np.dtype(np.int8),
    TensorProto.INT32: np.dtype(np.int32),
}

Form = tuple[tuple[int, ...], str]  # shape and dtype


def write(cell: nn.Cell, inputs: Sequence[Tensor], path: Path) -> None:
    """Compile a cell for such inputs, and write its graph.

    Raises:
        SetupError: MindSpore cannot.
    """
    graph = ModelProto()

    def kept(model: Any) -> None:
        graph.CopyFrom(model)
        del model.graph.parameter[:]  # so that MindSpore writes no weights, which may be gigabytes

    with tempfile.TemporaryDirectory() as folder:
        try:
            ms.export(cell, *inputs, file_name=f"{folder}/graph", file_format="MINDIR", custom_func=kept)
        except (RuntimeError, ValueError, TypeError) as error:
            raise SetupError(
                f"MindSpore {ms.__version__} cannot export {path.stem} ({native.explain(error)}): report it"
            ) from error
    _replace_library(graph, str(native.LIBRARY).encode(), LIBRARY)
    path.write_bytes(graph.SerializeToString(deterministic=True))


def load(path: Path, inputs: Mapping[str, Form], parameters: Mapping[str, Parameter]) -> nn.Cell:
    """A cell that runs the graph over these parameters, whose memory it shares.

    Raises:
        SetupError: the file is damaged, or other than it should be.
    """
    graph = ModelProto()
    try:
        graph.ParseFromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise SetupError(f"{path} is missing or no MindIR ({error}): copy the exported folder again") from error
    found = {_short(value.name): _form(value.tensor[0]) for value in graph.graph.input if value.tensor}
    if found != dict(inputs):
        raise SetupError(f"{path} takes {found}, export.json says {dict(inputs)}: export the model again")
    for parameter in graph.graph.parameter:
        name, form = _short(parameter.name), _form(parameter)
        if name not in parameters:
            raise SetupError(f"{path} needs {name}, which the folder does not hold: export the model again")
        if (held := form_of(parameters[name])) != form:
            raise SetupError(f"{path} takes {name} as {form}, the folder holds {held}: export the model again")
    _replace_library(graph, LIBRARY, str(native.LIBRARY).encode())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "graph.mindir"
        file.write_bytes(graph.SerializeToString())
        try:
            cell = nn.GraphCell(ms.load(str(file)), params_init=dict(parameters))
        except (RuntimeError, ValueError, TypeError) as error:
            raise SetupError(
                f"MindSpore {ms.__version__} cannot load {path} ({native.explain(error)}): export again with this release"
            ) from error
    for name, own in cell.parameters_dict().items():
        own.set_data(parameters[name], slice_shape=True)  # until now it held a copy
    return cell


def form_of(parameter: Parameter) -> Form:
    return tuple(parameter.shape), str(parameter.dtype).lower()


def _form(tensor: Any) -> Form:
    dtype = DTYPES.get(tensor.data_type)
    return tuple(tensor.dims), str(tensor.data_type) if dtype is None else dtype.name


def _short(name: str) -> str:
    """MindIR puts the name of the graph before a colon."""
    return name.rpartition(":")[2]


def _replace_library(graph: Any, old: bytes, new: bytes) -> None:
    for primitive in graph.primitives:
        for attribute in primitive.attribute:
            if old in attribute.s:
                attribute.s = attribute.s.replace(old, new)
