"""Sources of a model's graphs: a checkpoint, with or without an adapter, or an exported folder."""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Collection
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Literal

from mindnlp_ocr.backends import select
from mindnlp_ocr.backends.select import Attention, Backends
from mindnlp_ocr.cache.config import CacheConfig
from mindnlp_ocr.cache.slots import KVSlots
from mindnlp_ocr.engine.graphs import Graphs
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.export.manifest import FILE, Manifest
from mindnlp_ocr.models.limits import Limits
from mindnlp_ocr.models.memory import Memory
from mindnlp_ocr.ops.device import Device
from mindnlp_ocr.parallel.ranks import Ranks, check_ranks
from mindnlp_ocr.weights.checkpoint import Checkpoint, open_checkpoint
from mindnlp_ocr.weights.lora import AdaptedCheckpoint, Adapter
from mindnlp_ocr.weights.quantize import WeightDtype
from mindnlp_ocr.weights.split import Split

AskedDtype = WeightDtype | Literal["auto"]


class Network(ABC):
    """A source of graphs.

    Attributes:
        config: configuration of the network, including the adapter.
        rank_config: configuration of the part that this process computes.
        ranks: the ranks of a split model; a single rank until the model has joined the others.
        adapter: the merged adapter, if any.
        dtype: dtype of the weights; set by :meth:`graphs`.
    """

    dtype: WeightDtype

    def __init__(self, stored: Checkpoint, adapter: Adapter | None = None) -> None:
        self.stored, self.adapter = stored, adapter
        with self.files() as folder:
            self.rank_config = self.config = self.checkpoint(adapter).config(folder)
        self.ranks = Ranks()

    @property
    def name(self) -> str:
        return self.stored.name

    def files(self) -> AbstractContextManager[Path]:
        """A context manager for a folder with the tokenizer and the JSON files."""
        return self.stored.files()

    def checkpoint(self, adapter: Adapter | None) -> Checkpoint:
        return self.stored if adapter is None else AdaptedCheckpoint(self.stored, adapter)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the checkpoint without the adapter."""
        return self.stored.fingerprint()

    # Settings in effect: as requested, or as exported

    def limits(self, asked: Limits) -> Limits:
        return asked

    def attention(self, asked: Attention) -> Attention:
        return asked

    def cache(self, asked: CacheConfig) -> CacheConfig:
        return asked

    @abstractmethod
    def graphs(self, device: Device, dtype: AskedDtype, memory: Memory, backends: Backends, kv: KVSlots) -> Graphs:
        """Read the weights and return graphs that use the given slots."""

    @abstractmethod
    def switch(self, graphs: Graphs, adapter: Adapter | None) -> Collection[str]:
        """Switch the graphs to another adapter, or to none. Returns the published names of the changed weights.

        Raises:
            SetupError: the adapter cannot be switched; nothing has changed.
        """


class CheckpointNetwork(Network):
    """Graphs compiled from the cells in ``modeling/``, for the whole network or a rank's part."""

    def __init__(self, stored: Checkpoint, adapter: Adapter | None, tensor_parallel: int = 1) -> None:
        check_ranks(tensor_parallel)
        super().__init__(stored, adapter)
        self.rank_config = Split(0, tensor_parallel).config(self.config)  # the same on every rank

    def cache(self, asked: CacheConfig) -> CacheConfig:
        if self.rank_config is self.config:
            return asked
        return dataclasses.replace(
            asked, cache_ttl_seconds=math.inf
        )  # entries would expire at different times on different ranks

    def graphs(self, device: Device, dtype: AskedDtype, memory: Memory, backends: Backends, kv: KVSlots) -> Graphs:
        with self.checkpoint(self.adapter).weights(self.config) as weights:
            self.dtype = select.weight_dtype_for(device, dtype, weights.dtype)
            self.ranks.split.check_dtype(self.config, self.dtype)
            operators, own = select.operators_for(device, self.dtype), self.ranks.split.weights(weights)
            length, level = memory.max_length, device.jit_level
            return Graphs(self.rank_config, own, length, operators, backends, kv, level, self.ranks)

    def switch(self, graphs: Graphs, adapter: Adapter | None) -> Collection[str]:
        checkpoint = self.checkpoint(adapter)
        with self.files() as folder:
            if checkpoint.config(folder) != self.config:
                raise SetupError(
                    "the embedding and the head are tied with one of the adapters, but not with the other: "
                    "load a second model with lora_weights_path",
                    code="adapter_tied_weights",
                )
        changed = {name for each in (self.adapter, adapter) if each is not None for name in each.changed}
        with checkpoint.weights(self.config) as weights:
            graphs.update(self.ranks.split.weights(weights), changed)
        self.adapter = adapter
        return changed


class ExportedNetwork(Network):
    """Graphs loaded from MindIR. Most settings were fixed when the model was exported.

    Raises:
        SetupError: the folder is damaged, or was written by another version.
    """

    def __init__(self, stored: Checkpoint, folder: Path) -> None:
        self.folder = folder
        self.manifest = Manifest.read(folder)
        self.dtype = self.manifest.dtype
        super().__init__(stored)

    def limits(self, asked: Limits) -> Limits:
        self._agree("max_length", asked.max_length, None, self.manifest.max_length)
        largest = self.manifest.max_pixels
        if asked.max_pixels is not None and asked.max_pixels > largest:
            raise SetupError(
                f"max_pixels is {asked.max_pixels}, but {self.name} supports up to {largest}: use less, or export the "
                "model again",
                code="export_too_small",
            )
        return Limits(
            max_length=self.manifest.max_length,
            max_new_tokens=asked.max_new_tokens or self.manifest.max_new_tokens,
            min_pixels=asked.min_pixels or self.manifest.min_pixels,
            max_pixels=asked.max_pixels or largest,
        )

    def attention(self, asked: Attention) -> Attention:
        self._agree("attn", asked, "auto", self.manifest.attention)
        return self.manifest.attention

    def cache(self, asked: CacheConfig) -> CacheConfig:
        self._agree("slots", asked.slots, None, self.manifest.slots)
        self._agree("kv_dtype", asked.kv_dtype, CacheConfig().kv_dtype, self.manifest.kv_dtype)
        self._agree("enable_kv_cache", asked.enable_kv_cache, True, True)
        return dataclasses.replace(asked, slots=self.manifest.slots, kv_dtype=self.manifest.kv_dtype)

    def graphs(self, device: Device, dtype: AskedDtype, memory: Memory, backends: Backends, kv: KVSlots) -> Graphs:
        from mindnlp_ocr.export.graphs import ExportedGraphs  # imported here because only exported models need it

        self._agree("device", device.kind, None, self.manifest.device)
        self._agree("dtype", dtype, "auto", self.manifest.dtype)
        return ExportedGraphs(self.folder, self.manifest, self.config, backends, kv)

    def switch(self, graphs: Graphs, adapter: Adapter | None) -> Collection[str]:
        raise SetupError(
            f"{self.name} is an exported model, so its adapter cannot be changed: export the model with the other adapter",
            code="export_adapter_fixed",
        )

    def _agree(self, what: str, asked: object, anything: object, settled: object) -> None:
        if asked not in (anything, settled):
            raise SetupError(
                f"{what} is {asked}, but {self.name} was exported for {settled}: leave it out, or export the model again",
                code="export_setting_fixed",
            )


def open_network(
    model_name: str | Path | Checkpoint, lora_weights_path: str | Path | None, tensor_parallel: int = 1
) -> Network:
    """Open a checkpoint or an exported folder. Errors as :func:`open_checkpoint`, :class:`Adapter` and
    :class:`ExportedNetwork`."""
    stored = open_checkpoint(model_name)
    if not isinstance(model_name, Checkpoint) and (Path(model_name) / FILE).exists():
        if lora_weights_path is not None:
            raise SetupError(
                f"{stored.name} is an exported model and accepts no adapter: export the model with the adapter (--lora)",
                code="export_adapter_fixed",
            )
        if tensor_parallel != 1:
            raise SetupError(
                f"{stored.name} is an exported model, which cannot be split, but tensor_parallel is {tensor_parallel}: use "
                "its checkpoint",
                code="export_in_parts",
            )
        return ExportedNetwork(stored, Path(model_name))
    return CheckpointNetwork(stored, None if lora_weights_path is None else Adapter(lora_weights_path), tensor_parallel)
