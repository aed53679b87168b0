"""Graphs exported for Ascend on this machine, loaded again and run over the emulated operators: the tokens of the reference.

Run by tests/backends/test_ascend.py in a process of its own, as checks.py is.
"""

from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor

from mindnlp_ocr.backends.select import backends_for
from mindnlp_ocr.cache.config import CacheConfig
from mindnlp_ocr.cache.slots import KVSlots
from mindnlp_ocr.config import ModelConfig
from mindnlp_ocr.export.graphs import ExportedGraphs
from mindnlp_ocr.export.manifest import Manifest
from mindnlp_ocr.models.export import export_model
from mindnlp_ocr.models.limits import Limits
from mindnlp_ocr.ops.device import Device
from mindnlp_ocr.sampling import Sampler, SamplingParams
from tests.ascend_plugin.pages import FOLDER, MAX_LENGTH, PAGES, SLOTS, Page, copies_and_clears, read


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("ascend") / "exported"
    cache = CacheConfig(slots=SLOTS)
    limits = Limits(MAX_LENGTH, 32)
    export_model(FOLDER, target, "Ascend", None, cache, limits, [64, 256], attn="flash", dtype="fp16")
    return target


@pytest.fixture(scope="module")
def config(folder: Path) -> ModelConfig:
    return ModelConfig.from_folder(folder)


@pytest.fixture(scope="module")
def graphs(folder: Path, config: ModelConfig) -> ExportedGraphs:
    manifest = Manifest.read(folder)
    backends = backends_for(Device(manifest.device), manifest.attention, config, manifest.kv_dtype)
    kv = KVSlots(config, manifest.slots, manifest.max_length, backends.text, manifest.kv_dtype)
    return ExportedGraphs(folder, manifest, config, backends, kv)


def test_the_manifest_says_what_the_graphs_are_for(folder: Path) -> None:
    manifest = Manifest.read(folder)
    assert (manifest.device, manifest.attention, manifest.dtype, manifest.kv_dtype) == ("Ascend", "flash", "fp16", "fp16")
    assert {graph: list(manifest.of(graph)) for graph in ("vision", "prefill", "decode", "sample", "copy")} == {
        "vision": [64, 256],
        "prefill": [64, 96, 128],
        "decode": [SLOTS],
        "sample": [1, SLOTS],
        "copy": [1],
    }


def test_the_exported_sample_graph_gives_the_tokens_of_the_host(graphs: ExportedGraphs, config: ModelConfig) -> None:
    params = [
        SamplingParams(temperature=1.3, seed=1, top_p=0.9),
        SamplingParams(repetition_penalty=1.5, frequency_penalty=0.5, no_repeat_ngram_size=2),
    ]
    random = np.random.default_rng(0)
    logits = 4 * random.standard_normal((SLOTS, config.vocab_size)).astype(np.float32)
    texts = [random.integers(0, config.vocab_size, 20).tolist() for _ in params]
    samplers = [Sampler(each, config.vocab_size, config.eos_token_ids) for each in params]
    rows = {number: samplers[number].row(texts[number]) for number in range(len(params))}
    chosen = graphs.sample(Tensor(logits), {number: row for number, row in rows.items() if row is not None})
    assert len(chosen) == len(params)
    for number, (token, logprob) in chosen.items():
        expected = samplers[number].choose(logits[number], texts[number])
        assert (token, logprob) == (expected.token_id, pytest.approx(expected.logprob, abs=1e-4))


@pytest.mark.parametrize("graph", ["vision", "prefill", "decode"])
def test_each_graph_loads_with_the_shapes_of_the_manifest_and_holds_the_operators_of_ascend(
    folder: Path, graphs: ExportedGraphs, graph: str
) -> None:
    operator = {"vision": b"FlashAttentionScore", "prefill": b"PromptFlashAttention", "decode": b"IncreFlashAttention"}
    for bucket, entry in Manifest.read(folder).of(graph).items():  # type: ignore[arg-type]
        assert graphs._load(graph, bucket)  # type: ignore[arg-type]
        assert operator[graph] in (folder / entry.file).read_bytes()


@pytest.mark.parametrize("name", PAGES)
def test_exported_graphs_give_the_references_tokens(graphs: ExportedGraphs, config: ModelConfig, name: str) -> None:
    read(graphs, Page(graphs, config, name, 1, []))


def test_two_slots_at_once_give_the_references_tokens(graphs: ExportedGraphs, config: ModelConfig) -> None:
    read(graphs, Page(graphs, config, "alpha_308x140", 2, [40]), Page(graphs, config, "line_392x28", 0, [3, 20]))


def test_the_exported_copy_graph_moves_a_prefix_and_clears_a_slot(graphs: ExportedGraphs, config: ModelConfig) -> None:
    copies_and_clears(graphs)
