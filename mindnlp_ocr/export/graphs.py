"""The graphs of an exported folder, which replace those compiled from the network."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mindspore import Parameter, Tensor, nn

from mindnlp_ocr.backends.select import Backends
from mindnlp_ocr.cache.slots import KVSlots
from mindnlp_ocr.config import ModelConfig
from mindnlp_ocr.engine.graphs import Graphs
from mindnlp_ocr.engine.overflow import OverflowedError, overflowed
from mindnlp_ocr.errors import PageError, SetupError
from mindnlp_ocr.export import mindir
from mindnlp_ocr.export.manifest import Graph, Manifest
from mindnlp_ocr.modeling.layers import parameter
from mindnlp_ocr.weights.digest import sha256
from mindnlp_ocr.weights.folder import opened, own_bfloat16


class ExportedGraphs(Graphs):
    """Runs MindIR graphs that share weights and slots. Each graph is loaded on its first use.

    Args:
        backends: backends with the attention implementation in the manifest.
        kv: slots with the number, length and dtype in the manifest.

    Raises:
        SetupError: the folder is damaged, or its files are inconsistent.
    """

    def __init__(self, folder: Path, manifest: Manifest, config: ModelConfig, backends: Backends, kv: KVSlots) -> None:
        self._folder, self._manifest = folder, manifest
        for entry in manifest.graphs:
            path = folder / entry.file
            if not path.exists() or sha256(path) != entry.sha256:
                raise SetupError(f"{path} is missing or was changed: copy the exported folder again", code="export_damaged")
        self._start(config, manifest.max_length, backends)
        self._weights = {held.name: held for held in _read_parameters(folder, manifest)}
        self.attach(backends, kv)

    def attach(self, backends: Backends, kv: KVSlots) -> None:
        """Use these slots, which must have the shape and dtype for which the graphs were exported."""
        self.backends = backends
        self._forget("vision", "prefill", "decode", "sample", "copy")
        self._slots, self._kv = kv.shape[0], kv
        self._held = {**self._weights, **{held.name: held for held in (*kv.keys, *kv.values)}}
        self._cells: dict[tuple[Graph, int], nn.Cell] = {}
        self._vision, self._prefill = self._runs("vision"), self._runs("prefill")
        self._decode, self._sample = self._runs("decode"), self._runs("sample")
        self._copy = self._runs("copy")

    def update(self, weights: Mapping[str, Any], changed: Collection[str]) -> None:
        raise SetupError(
            "an exported model has no adapter that can be changed: export one with --lora", code="export_adapter_fixed"
        )

    def parameters(self) -> list[Parameter]:
        return list(self._weights.values())

    @property
    def images_at_once(self) -> int:
        return 1

    @property
    def prompts_at_once(self) -> int:
        return 1

    def buckets(self, graph: Graph) -> Iterable[int]:  # type: ignore[override]
        return self._manifest.of(graph)

    def _bucket(self, graph: Graph, size: int) -> int:  # type: ignore[override]
        for bucket in self.buckets(graph):
            if bucket >= size:
                return bucket
        what, remedy = ("patches", "lower max_pixels") if graph == "vision" else ("tokens", "shorten the prompt")
        raise PageError(
            f"{size} {what}, but the exported {graph} graphs support at most {bucket}: {remedy}, or export larger ones",
            code="export_too_small",
        )

    def decode_bucket(self, segments: int) -> int:
        return self._bucket("decode", segments)

    def _overflowed(self, graph: str, inputs: Sequence[Tensor], rows: int) -> OverflowedError:
        return overflowed(f"the exported {graph} graph", self._manifest.dtype)

    def _runs(self, graph: Graph) -> Callable[..., Any]:
        """Return a function that runs the form of a graph that matches the first input."""

        def run(*inputs: Tensor) -> Any:
            bucket = inputs[0].shape[0]
            if (graph, bucket) not in self._cells:
                self._cells[graph, bucket] = self._load(graph, bucket)
            return self._cells[graph, bucket](*inputs)

        return run

    def _load(self, graph: Graph, bucket: int) -> nn.Cell:
        entry = self._manifest.of(graph)[bucket]
        forms = {array.name: (array.shape, array.dtype) for array in entry.inputs}
        return mindir.load(self._folder / entry.file, forms, self._held)


def _read_parameters(folder: Path, manifest: Manifest) -> Iterable[Parameter]:
    """Read the packed weights as the parameters that the graphs share."""
    expected = {array.name: (array.shape, array.dtype) for array in manifest.parameters}
    missing = set(expected)
    for name in manifest.parameter_files:
        path = folder / name
        with opened(path) as file:
            keys = list(file.keys())
        for key in keys:
            with opened(path) as file:
                array = own_bfloat16(file.get_tensor(key))
            if expected.get(key) != (array.shape, array.dtype.name):
                raise SetupError(
                    f"{path}: {key} is {(array.shape, array.dtype.name)}, but export.json says {expected.get(key)}: "
                    "copy the exported folder again",
                    code="export_mixed",
                )
            missing.discard(key)
            yield parameter(key, array)
    if missing:
        raise SetupError(
            f"{folder} lacks {len(missing)} parameters, for example {min(missing)}: copy the exported folder again",
            code="export_damaged",
        )
