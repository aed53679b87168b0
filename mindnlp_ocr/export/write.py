"""Writing of a model to a folder with MindIR graphs, packed weights, and the files needed for reading."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from mindspore import Parameter, Tensor
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tqdm import tqdm

from mindnlp_ocr.cache.slots import KVSlots
from mindnlp_ocr.config import ModelConfig
from mindnlp_ocr.engine.graphs import Graphs
from mindnlp_ocr.engine.packing import windows_in
from mindnlp_ocr.export import mindir
from mindnlp_ocr.export.manifest import Array, ExportedGraph, Graph
from mindnlp_ocr.sampling.sampler import BANS, HISTORY
from mindnlp_ocr.weights.digest import sha256

FILE_BYTES = 2 << 30  # maximum size of the parameters in one file


class Shape(NamedTuple):
    """A graph to export."""

    graph: Graph
    bucket: int


def write_graphs(
    folder: Path, graphs: Graphs, kv: KVSlots, config: ModelConfig, shapes: Sequence[Shape]
) -> list[ExportedGraph]:
    """Write each graph as GRAPH-BUCKET.mindir."""
    written = []
    for graph, bucket in tqdm(shapes, unit="graph", desc="exporting", disable=None):
        inputs = example_inputs(graph, bucket, config, graphs.backends.vision.most_windows)
        path = folder / f"{graph}-{bucket}.mindir"
        mindir.write(graphs.cells(kv)[graph], list(inputs.values()), path)
        arrays = tuple(
            Array(name=name, shape=tuple(tensor.shape), dtype=str(tensor.dtype).lower()) for name, tensor in inputs.items()
        )
        written.append(ExportedGraph(graph=graph, bucket=bucket, file=path.name, sha256=sha256(path), inputs=arrays))
    return written


def write_parameters(folder: Path, parameters: Sequence[Parameter]) -> tuple[list[Array], list[str]]:
    """Write packed weights to safetensors files. Return their descriptions and the names of the files."""
    arrays = []
    files: list[str] = []
    held: dict[str, NDArray[Any]] = {}

    def flush() -> None:
        files.append(f"parameters-{len(files) + 1:05}.safetensors")
        save_file(held, folder / files[-1])
        held.clear()

    for parameter in parameters:
        shape, dtype = mindir.form_of(parameter)
        arrays.append(Array(name=parameter.name, shape=shape, dtype=dtype))
        if held and sum(array.nbytes for array in held.values()) + parameter.nbytes > FILE_BYTES:
            flush()
        array = parameter.asnumpy()
        held[parameter.name] = array.view(ml_dtypes.bfloat16) if dtype == "bfloat16" else array
    flush()
    return arrays, files


def example_inputs(graph: Graph, bucket: int, config: ModelConfig, most_windows: int) -> dict[str, Tensor]:
    """Return inputs with the shapes and dtypes of a graph, by name; ``most_windows`` is the limit of the backend."""
    vision = config.vision
    if graph == "vision":
        table = _zeros(bucket, vision.head_dim // 2)
        ends = {"cu_seqlens": Tensor(np.array([0, bucket], np.int32))}
        if vision.window:
            ends["cu_windows"] = _integers(windows_in(vision, bucket, 1, most_windows) + 1)
        return {"patches": _zeros(bucket, vision.patch_dim), "cos": table, "sin": table, **ends}
    if graph == "prefill":
        names, one = ("slots", "cached", "count"), _integers(1)
        rows, is_image = _zeros(bucket, config.hidden_size), _zeros(bucket, 1)
        inputs = {"token_ids": _integers(bucket), "image_rows": rows, "is_image": is_image}
        return {**inputs, "position_ids": _integers(3, bucket), **dict.fromkeys(names, one)}
    if graph == "sample":
        names = ("presence", "frequency", "repetition")
        return {
            "logits": _zeros(bucket, config.vocab_size),
            "temperature": _zeros(bucket),
            "top_k": _integers(bucket),
            **dict.fromkeys(("top_p", "min_p", *names), _zeros(bucket)),
            "history": _integers(bucket, HISTORY),
            "bans": _integers(bucket, BANS),
            "uniform": _zeros(bucket),
        }
    if graph == "copy":
        return dict.fromkeys(("source", "target", "tokens"), _integers(1))
    texts = ("token_ids", "position_ids", "slots", "cached", "count")
    return {**dict.fromkeys(texts, _integers(bucket)), "rows": _integers(1)}


def _zeros(*shape: int) -> Tensor:
    return Tensor(np.zeros(shape, np.float32))


def _integers(*shape: int) -> Tensor:
    return Tensor(np.zeros(shape, np.int32))
