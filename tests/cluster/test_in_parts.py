"""Tests that a model in two parts on two workers gives the same tokens. The tests share one run of msrun."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindnlp_ocr.cli import DEFAULT_PROMPT, main
from mindnlp_ocr.config import ModelConfig
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.models.qwen2vl import EMBEDDED, Qwen2VLModel
from mindnlp_ocr.ops import native
from mindnlp_ocr.parallel.ranks import Ranks
from mindnlp_ocr.weights.checkpoint import open_checkpoint
from mindnlp_ocr.weights.quantize import GROUP, Quantized, Source, concatenate, dequantize, quantize
from mindnlp_ocr.weights.split import BY_INPUT, BY_OUTPUT, Split
from tests.cluster.in_parts import MODELS, RUNS, read
from tests.cluster.runs import log, run

PAGES = ["tests/pages/word_56x56.png", "tests/pages/missing.png", "tests/pages/odd_301x173.png"]
with_library = pytest.mark.skipif(not native.available()[0], reason=native.available()[1])


@pytest.fixture(scope="module")
def in_parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """The results of two workers for pages and for prompts with random weights, and their logs."""
    folder = tmp_path_factory.mktemp("parts")
    assert run("tests/cluster/in_parts.py", str(folder / "runs"), *PAGES, logs=folder) == 0, log(folder, "worker_0")
    pages, runs = (json.loads((folder / name).read_text(encoding="utf-8")) for name in ("runs.json", "runs.0"))
    return pages, runs, folder


@with_library
def test_pages_read_by_one_model_in_two_parts_have_the_tokens_of_one(
    in_parts: tuple[dict[str, Any], dict[str, Any], Path], model: Qwen2VLModel
) -> None:
    pages, runs, folder = in_parts
    assert runs["status"] == 1
    for path, result in zip(PAGES, pages["results"], strict=True):
        if "missing" in path:
            assert result["error"] == f"{path} is missing: pass an image file"
            continue
        content = [{"type": "image", "image": path}, {"type": "text", "text": DEFAULT_PROMPT}]
        one = model.generate([{"role": "user", "content": content}])
        assert (result["token_ids"], result["text"]) == (one.token_ids, one.text)
    assert (model.get_model_info()["tensor_parallel"], pages["model"]["tensor_parallel"]) == (1, 2)
    said = "error: tests/pages/missing.png: tests/pages/missing.png is missing: pass an image file [file_missing]"
    assert said in log(folder, "worker_1").splitlines()


@with_library
@pytest.mark.parametrize("number", range(len(RUNS)), ids=[f"{MODELS[model]['name']}-{dtype}" for model, dtype in RUNS])
def test_at_published_layer_shapes_and_with_windows_two_parts_give_the_tokens_of_one_and_hold_half(
    in_parts: tuple[dict[str, Any], dict[str, Any], Path], number: int
) -> None:
    (model, dtype), parts = RUNS[number], in_parts[1]["runs"][number]
    one = read(model, dtype, Ranks(), parts["token_ids"])
    if dtype != "int8":  # a sum in another order rounds activations to other 8-bit values, which decides between near ties
        assert parts["token_ids"] == one["token_ids"]
    np.testing.assert_allclose(parts["logits"], one["logits"], atol=1e-3 if dtype == "fp32" else 0.2)
    assert parts["kv_heads"] * 2 == one["kv_heads"]
    most = 0.51 if MODELS[model]["name"] == "2b" else 0.58  # a tiny layer has panels that are filled up
    assert 0.49 < parts["layer_bytes"] / one["layer_bytes"] < most


def test_a_page_that_one_rank_cannot_read_or_reads_otherwise_fails_on_both(
    in_parts: tuple[dict[str, Any], dict[str, Any], Path],
) -> None:
    _, first, folder = in_parts
    second = json.loads((folder / "runs.1").read_text(encoding="utf-8"))
    different = "the ranks read different pixels or prompts: give all machines the same files and packages"
    assert first["agreements"] == ["", "rank 1 of 2 could not read the page: see its log", different]
    assert second["agreements"] == ["", "damaged", different]
    assert (first["least"], second["least"]) == (5, 5)


# What does not divide, and what is not there


CONFIG = ModelConfig.from_dict(MODELS[0]["config"])


@pytest.mark.parametrize(
    ("changes", "ranks", "message"),
    [
        ({}, 5, "tensor_parallel is 5: the checkpoint has 12 attention heads: use a divisor of this number"),
        ({}, 4, "tensor_parallel is 4: the checkpoint has 2 key-value heads: use a divisor of this number"),
        ({"intermediate_size": 8961}, 2, "tensor_parallel is 2: the checkpoint has 8961 inner values of the MLP"),
    ],
)
def test_what_does_not_divide_is_refused(changes: dict[str, int], ranks: int, message: str) -> None:
    with pytest.raises(SetupError, match=message):
        Split(0, ranks).config(CONFIG.model_copy(update=changes))


def test_int8_is_refused_where_a_part_would_cut_a_group() -> None:
    Split(0, 2).check_dtype(CONFIG, "int8")
    tiny = ModelConfig.from_folder(EMBEDDED)
    Split(0, 2).check_dtype(tiny, "bf16")
    with pytest.raises(
        SetupError, match="int8 weights have a scale for 128 inputs, and 384 do not divide into whole groups"
    ):
        Split(0, 2).check_dtype(tiny, "int8")


@pytest.mark.parametrize(
    ("workers", "ranks", "message"),
    [
        (
            None,
            2,
            "tensor_parallel is 2, but msrun did not start this process: run msrun --worker_num 2 --local_worker_num 2",
        ),
        ("4", 2, "tensor_parallel is 2, but msrun started 4 workers: use 4"),
        (None, 0, "tensor_parallel is 0: use 1 or more"),
    ],
)
def test_other_numbers_of_workers_are_refused(
    workers: str | None, ranks: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if workers is not None:
        msrun = {"MS_ROLE": "MS_WORKER", "MS_NODE_ID": "0", "MS_SCHED_HOST": "127.0.0.1", "MS_SCHED_PORT": "1"}
        for name, value in (msrun | {"MS_WORKER_NUM": workers}).items():
            monkeypatch.setenv(name, value)
    with pytest.raises(SetupError, match=message):
        Qwen2VLModel(tensor_parallel=ranks)


def test_workers_without_numbers_and_a_cache_on_disk_are_refused_by_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([PAGES[0], "--tensor-parallel", "2", "--cache-dir", "cache"]) == 2
    assert (
        "--cache-dir stores whole heads, but with --tensor-parallel each worker has only a part" in capsys.readouterr().err
    )
    msrun = {"MS_ROLE": "MS_WORKER", "MS_SCHED_HOST": "127.0.0.1", "MS_SCHED_PORT": "1", "MS_WORKER_NUM": "2"}
    for name, value in msrun.items():
        monkeypatch.setenv(name, value)
    assert main([PAGES[0]]) == 2
    assert "msrun assigned no rank to this worker: add --node_rank on every machine" in capsys.readouterr().err


# The weights of a part


def test_the_parts_of_every_weight_are_the_whole() -> None:
    config = ModelConfig.from_folder(EMBEDDED)
    with open_checkpoint(EMBEDDED).weights(config) as weights:
        parts = [Split(rank, 2).weights(weights) for rank in range(2)]
        for name in weights:
            pieces = [np.asarray(part[name]) for part in parts]
            layer = name.split(".")[-2]
            if name.startswith("model.layers.") and layer in (*BY_OUTPUT, *BY_INPUT):
                whole = np.concatenate(pieces, axis=1 if layer in BY_INPUT else 0)
            else:
                whole, other = pieces
                np.testing.assert_array_equal(whole, other)
            np.testing.assert_array_equal(whole, np.asarray(weights[name]))


@pytest.mark.parametrize("width", [4 * GROUP, 3 * GROUP])
def test_the_parts_of_a_weight_in_8_bits_are_the_whole_and_stay_in_8_bits_where_no_group_is_cut(width: int) -> None:
    weight = quantize(np.random.default_rng(0).standard_normal((6, width), np.float32))
    names = {name: f"model.layers.0.mlp.{name}.weight" for name in ("up_proj", "down_proj")}
    weights: dict[str, Source] = dict.fromkeys(names.values(), weight)
    up, down = ([Split(rank, 2).weights(weights)[name] for rank in range(2)] for name in names.values())
    whole = concatenate(up)
    assert isinstance(whole, Quantized)
    np.testing.assert_array_equal(dequantize(whole), dequantize(weight))
    assert isinstance(down[0], Quantized) == (width // 2 % GROUP == 0)
    pieces = [dequantize(part) if isinstance(part, Quantized) else part for part in down]
    np.testing.assert_array_equal(np.concatenate(pieces, 1), dequantize(weight))
