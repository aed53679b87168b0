"""Weights in other dtypes: 16 bits as stored give float32's logits to the bit, 8 bits the golden pages' text."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rapidfuzz.distance import Levenshtein

from mindnlp_ocr.backends import select
from mindnlp_ocr.cache.config import CacheConfig
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.models.qwen2vl import EMBEDDED, Qwen2VLModel
from mindnlp_ocr.ops import native
from mindnlp_ocr.ops.device import Device
from mindnlp_ocr.weights.convert import convert
from mindnlp_ocr.weights.folder import FolderCheckpoint
from tests.conftest import CASES, case, logit_bits, run

with_library = pytest.mark.skipif(not native.available()[0], reason=native.available()[1])
NAMES = ["word_56x56", "line_392x28", "odd_301x173", "zh_line_336x34", "two_images", "text_only"]


@pytest.fixture(scope="module")
def int8() -> Qwen2VLModel:
    return Qwen2VLModel(dtype="int8")


@with_library
def test_weights_held_as_they_are_stored_give_the_bits_of_float32(model: Qwen2VLModel) -> None:
    wide = Qwen2VLModel(dtype="fp32")
    assert (model.get_model_info()["dtype"], wide.get_model_info()["dtype"]) == ("bf16", "fp32")
    for name in NAMES:
        ours, theirs = run(model, case(name)["messages"]), run(wide, case(name)["messages"])
        assert logit_bits(ours) == logit_bits(theirs)


@with_library
def test_eight_bits_change_the_error_rate_of_the_golden_pages_by_no_more_than_a_tenth_of_a_point(int8: Qwen2VLModel) -> None:
    pages = [c for c in CASES if c["finish_reason"] == "stop"]
    texts = [int8.infer(c["messages"]) for c in pages]
    edits = sum(Levenshtein.distance(text, c["text"]) for text, c in zip(texts, pages, strict=True))
    assert edits <= 0.001 * sum(len(c["text"]) for c in pages)


@with_library
def test_eight_bits_are_the_same_bits_alone_in_a_batch_and_cached(int8: Qwen2VLModel) -> None:
    off = Qwen2VLModel(dtype="int8", cache_config=CacheConfig(enable_kv_cache=False))
    for name in NAMES[:3]:
        cold = logit_bits(run(off, case(name)["messages"]))
        int8.clear_cache()
        assert logit_bits(run(int8, case(name)["messages"])) == cold
        assert logit_bits(run(int8, case(name)["messages"])) == cold  # its prompt is known now
    batch = [case(name)["messages"] for name in NAMES]
    int8.clear_cache()
    alone = [int8.infer(messages) for messages in batch]
    int8.clear_cache()
    assert int8.infer_batch(batch, batch_size=4) == alone


@with_library
def test_eight_bits_are_not_float32(model: Qwen2VLModel, int8: Qwen2VLModel) -> None:
    ours, theirs = (m.requests.trace(case("word_56x56")["messages"])[1][0] for m in (int8, model))
    assert 1e-3 < np.abs(ours - theirs).max() < 1


@with_library
def test_float16_reads_the_same_text() -> None:
    half = Qwen2VLModel(dtype="fp16")
    assert half.get_model_info()["dtype"] == "fp16"
    assert half.infer(case("odd_301x173")["messages"]) == case("odd_301x173")["text"]


@with_library
def test_a_converted_checkpoint_gives_the_bits_of_quantising_at_load(int8: Qwen2VLModel, tmp_path: Path) -> None:
    convert(FolderCheckpoint(EMBEDDED), tmp_path / "int8", "int8")
    stored = Qwen2VLModel(tmp_path / "int8")
    assert stored.get_model_info()["dtype"] == "int8"
    int8.clear_cache()
    for name in NAMES[:3]:
        messages = case(name)["messages"]
        assert logit_bits(run(stored, messages)) == logit_bits(run(int8, messages))
    wide = Qwen2VLModel(tmp_path / "int8", dtype="fp32")
    assert wide.infer(case("line_392x28")["messages"]) == case("line_392x28")["text"]


@with_library
def test_prefixes_of_another_dtype_are_not_taken_from_disk(int8: Qwen2VLModel, tmp_path: Path) -> None:
    int8.clear_cache()
    int8.infer(case("word_56x56")["messages"])
    assert int8.save_cache(tmp_path) == 1
    with pytest.warns(RuntimeWarning, match="ignored"):
        assert Qwen2VLModel(dtype="fp32").load_cache(tmp_path) == 0


def test_an_unknown_dtype_is_refused() -> None:
    wrong: Any = "int4"
    with pytest.raises(SetupError, match="dtype 'int4' is unknown: use auto, fp32, fp16, bf16, int8"):
        Qwen2VLModel(dtype=wrong)


def test_without_our_operators_weights_are_float32_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "available", lambda: (False, "_cpu.so is not built"))
    assert select.weight_dtype_for(Device("CPU"), "auto", "bf16") == "fp32"
    assert select.weight_dtype_for(Device("CPU"), "fp32", "bf16") == "fp32"
    with pytest.raises(SetupError, match=r"weights in int8 need our CPU operators \(_cpu.so is not built\): use dtype auto"):
        select.weight_dtype_for(Device("CPU"), "int8", "bf16")


def test_a_number_of_threads_below_one_is_refused() -> None:
    with pytest.raises(SetupError, match="threads is 0: use 1 or more"):
        Qwen2VLModel(threads=0)
