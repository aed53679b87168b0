"""Tests of this engine and mindnlp in one process, which is separate because the import changes MindSpore."""

import importlib.util
import json
import subprocess
import sys
from typing import Any

import pytest

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.interop import MindNLPCheckpoint, register_attention
from mindnlp_ocr.interop.loading import import_mindnlp
from mindnlp_ocr.models.qwen2vl import EMBEDDED
from mindnlp_ocr.ops import native
from tests.conftest import ROOT, case

SMALL, LONGER = "word_56x56", "line_392x28"
with_mindnlp = pytest.mark.skipif(
    importlib.util.find_spec("mindnlp") is None or not native.available()[0],
    reason="mindnlp or the CPU operators are not installed",
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of tests/interop/beside_mindnlp.py."""
    output = tmp_path_factory.mktemp("mindnlp") / "found.json"
    command = [sys.executable, "-m", "tests.interop.beside_mindnlp", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    answer: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return answer


def tokens(*names: str) -> dict[str, list[int]]:
    return {name: case(name)["token_ids"] for name in names}


@with_mindnlp
def test_mindnlps_own_model_gives_the_references_tokens(found: dict[str, Any]) -> None:
    assert found["mindnlp"] == tokens(SMALL)


@with_mindnlp
@pytest.mark.parametrize("attn", ["flash", "eager"])
def test_our_engine_gives_the_same_tokens_on_its_weights_in_the_same_process(found: dict[str, Any], attn: str) -> None:
    assert found[attn] == tokens(SMALL, LONGER)
    assert found["info"] == {"model_name": EMBEDDED.name, "dtype": "fp32"}


@with_mindnlp
def test_its_cache_is_saved_and_read_again(found: dict[str, Any]) -> None:
    assert (found["saved"], found["loaded"]) == (2, 2)
    assert found["reused"] == len(case(LONGER)["prompt_ids"]) - 1


@with_mindnlp
def test_norms_are_shared_with_mindnlps_model_and_matrices_are_packed_copies(found: dict[str, Any]) -> None:
    assert found["shared"] == ["model.norm.weight"]


@with_mindnlp
def test_mindnlps_model_gives_the_same_tokens_over_our_attention(found: dict[str, Any]) -> None:
    assert found["registered"] == tokens(SMALL)


@with_mindnlp
def test_the_registered_attention_is_float64s_with_padding_and_longer_caches(found: dict[str, Any]) -> None:
    assert len(found["errors"]) == 8
    assert max(found["errors"].values()) < 2e-6, found["errors"]


@with_mindnlp
def test_what_cannot_be_done_beside_mindnlp_is_refused_in_words(found: dict[str, Any]) -> None:
    own = "attention 'mindnlp_ocr_flash'"
    processor = "no/such/folder contains no tokenizer.json and no preprocessor_config.json: pass processor=FOLDER"
    told = found["refused"]
    assert told["dropout"] == f"{own} does not support dropout=0.1: use attn_implementation='eager'"
    assert told["window"] == f"{own} does not support sliding_window=2: use attn_implementation='eager'"
    assert told["mask"] == f"{own} creates its own mask: pass the model one of shape [batch, keys]"
    assert told["keys"] == f"{own}: only causal attention supports padding, or more keys than tokens"
    assert told["packed"].startswith(
        "attention of mindnlp_ocr: packed sequences and sliding windows are not supported: pass an"
    )
    assert told["processor"] == f"from_mindnlp: {processor}, the published folder of the checkpoint"
    assert told["model"] == "from_mindnlp: Tensor is not a mindnlp model: pass a Qwen2VLForConditionalGeneration"
    assert told["shape"].startswith(
        "from_mindnlp: Qwen2VLForConditionalGeneration: the weights do not match config.json: model.layers.0.mlp.gate"
    )


def test_without_our_operators_or_mindnlp_registering_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(native, "available", lambda: (False, "_cpu.so is not built"))
        with pytest.raises(SetupError, match=r"^register_attention: _cpu\.so is not built$"):
            register_attention()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"^mindnlp is not installed: run `pip install 'mindnlp-ocr\[mindnlp\]'`$"):
        import_mindnlp()


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(SetupError, match=r"^from_mindnlp: dict is not a mindnlp model: pass a Qwen2VLForConditional"):
        MindNLPCheckpoint({})
