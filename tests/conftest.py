"""Shared fixtures: one loaded model, and the goldens recorded from the PyTorch reference."""

import gc
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Processes that share the cores share them out, before our operators are loaded: their threads spin.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // workers)))


os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # as our own modules do, before a test imports Ray

import numpy as np
import pytest

from mindnlp_ocr.engine.generate import Generation
from mindnlp_ocr.engine.scheduler import Handle
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel

ROOT = Path(__file__).parent.parent
GOLDENS = ROOT / "tests" / "goldens"
CASES: list[dict[str, Any]] = json.loads((GOLDENS / "pages.json").read_text(encoding="utf-8"))["cases"]

# What belongs to the slow tier, by the beginning of its name: tests that start Ray, msrun or servers, use other compilers,
# export graphs, compile many of them, or run benchmarks. Some other tests have the marker themselves.
SLOW = (
    "backends/test_ascend.py::test_the_graphs_pass_over_emulated_operators",
    "cache/test_reuse.py::test_slots_of_16_bits_give_the_same_bits",
    "cache/test_persistence.py",
    "cluster/test_in_parts.py",
    "cluster/test_shard.py",
    "documents/test_mineru.py",
    "engine/test_batch.py::test_pages_of_all_sizes_read_together_give_the_golden_tokens[2",
    "engine/test_generate.py::test_mindspores_own_operators_alone_give_the_same_tokens",
    "engine/test_generate.py::test_without_our_library",
    "engine/test_graphs.py::test_models_that_come_and_go",
    "engine/test_overflow.py",
    "engine/test_sampling.py::test_tokens_that_a_graph_samples_are_those_of_the_host",
    "export/test_export.py",
    "farm/test_batch.py",
    "farm/test_examples.py",
    "farm/test_in_parts.py",
    "farm/test_object_store.py",
    "interop/test_mindnlp.py",
    "modeling/test_published_shapes.py",
    "modeling/test_windows.py::test_features_logits_and_tokens_match[3b",
    "modeling/test_windows.py::test_features_logits_and_tokens_match[7b",
    "modeling/test_windows.py::test_features_logits_and_tokens_match[tiny-eager-True",
    "models/test_dtypes.py",
    "models/test_windows.py::test_an_exported_model_gives_the_logits_of_the_live_one",
    "ops/test_builds.py",
    "ops/test_eager_references.py",
    "server/test_fuzz.py",
    "server/test_on_ray.py",
    "server/test_small.py",
    "server/test_web.py",
    "test_environment.py::test_mindnlp_imports",
    "tools/test_benchmark_peers.py",
    "tools/test_benchmarks.py",
    "tools/test_dev_pages.py",
    "tools/test_evaluate.py",
    "tools/test_evaluate_layout.py",
)

# Files that take longest. They begin first, so that at the end no process is left with one of them alone.
LONG = (
    "farm/test_batch.py",
    "backends/test_ascend.py",
    "tools/test_benchmarks.py",
    "ops/test_builds.py",
    "farm/test_in_parts.py",
    "cluster/",
    "server/test_on_ray.py",
    "engine/",
    "export/",
    "modeling/",
    "models/",
    "tools/test_dev_pages.py",
    "docs/test_commands.py",
    "interop/",
    "test_cli.py",
    "weights/test_lora.py",
)


def begins(item: pytest.Item) -> int:
    """The rank of a test's file in LONG, or one behind all of these."""
    name = item.nodeid.removeprefix("tests/")
    return next((rank for rank, beginning in enumerate(LONG) if name.startswith(beginning)), len(LONG))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=begins)
    for item in items:
        if item.nodeid.removeprefix("tests/").startswith(SLOW):
            item.add_marker("slow")


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Take what has been imported and collected out of the garbage collector's rounds, of which compiling makes many."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to the root of the project, because goldens contain relative paths."""
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="session")
def model() -> Qwen2VLModel:
    """The built-in model. Tests that change its settings must load another one."""
    os.chdir(ROOT)
    return Qwen2VLModel()


@pytest.fixture(scope="session")
def golden_arrays() -> Any:
    """Arrays of every case, as "NAME/position_ids", "NAME/logits" and "NAME/vision"."""
    return np.load(GOLDENS / "pages.npz", allow_pickle=False)


def case(name: str) -> dict[str, Any]:
    """Return the golden case with this name."""
    return next(c for c in CASES if c["name"] == name)


def run(model: Qwen2VLModel, messages: Any, max_new_tokens: int | None = None) -> Generation:
    """Run ``generate``, and keep every step with its logits."""
    generation = model.requests.generation(messages, max_new_tokens)
    generation.steps = []
    assert list(model.scheduler.run(generation)) == generation.token_ids
    return generation


def run_together(model: Qwen2VLModel, generations: Sequence[Generation], at_once: int) -> None:
    """Run requests in order, with ``batch_size`` of them at a time."""
    handles: list[Handle] = []
    for generation in generations:
        model.scheduler.advance(lambda: sum(not handle.done for handle in handles) < at_once)
        handles.append(model.scheduler.submit(generation))
    model.scheduler.advance(lambda: all(handle.done for handle in handles))
    assert [handle.error for handle in handles] == [None] * len(handles)


def logit_bits(generation: Generation) -> list[bytes]:
    """Return the logits of every step as bytes."""
    return [step.numpy().tobytes() for step in generation.steps or []]
