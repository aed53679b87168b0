"""Tests of 16-bit weights on MindSpore's operators: the reference's tokens, and errors that locate an overflow."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from mindnlp_ocr.backends import select
from mindnlp_ocr.config import ModelConfig
from mindnlp_ocr.errors import PageError
from mindnlp_ocr.models.qwen2vl import EMBEDDED, Qwen2VLModel
from mindnlp_ocr.ops import native
from mindnlp_ocr.ops.device import Device
from mindnlp_ocr.weights.checkpoint import StoredWeights
from mindnlp_ocr.weights.folder import FolderCheckpoint
from mindnlp_ocr.weights.quantize import WeightDtype
from tests.conftest import case, run

NPU, SCALE = Device("Ascend"), 2e4
REMEDY = (
    "(weights in fp16): the limit of float16 is 65504: use --dtype bf16 or fp32, and --kv-dtype bf16 with flash attention"
)


class Scaled(StoredWeights):
    """The embedded weights in float32, one of them scaled."""

    dtype = "fp32"

    def __init__(self, weights: StoredWeights, name: str) -> None:
        self._weights, self._name = weights, name
        self.names = weights.names

    def __getitem__(self, name: str) -> Any:
        weight = self._weights[name]
        assert isinstance(weight, np.ndarray)
        return weight.astype(np.float32) * np.float32(SCALE if name == self._name else 1)


class ScaledCheckpoint(FolderCheckpoint):
    def __init__(self, name: str) -> None:
        super().__init__(EMBEDDED)
        self.name = name

    @contextmanager
    def weights(self, config: ModelConfig) -> Iterator[Scaled]:  # type: ignore[override]
        with super().weights(config) as weights:
            yield Scaled(weights, self.name)


def of_mindspore(dtype: WeightDtype, checkpoint: Any = EMBEDDED) -> Qwen2VLModel:
    """A CPU runs what an NPU runs: MindSpore's products, with weights in the dtype that an NPU would hold."""
    chosen = select.weight_dtype_for
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "runs_ours", lambda device: False)
        patch.setattr(select, "weight_dtype_for", lambda device, asked, stored: chosen(NPU, asked, stored))
        return Qwen2VLModel(checkpoint, attn="eager", dtype=dtype)


@pytest.fixture(scope="module")
def half() -> Qwen2VLModel:
    return of_mindspore("fp16")


@contextmanager
def scaled(model: Qwen2VLModel, name: str) -> Iterator[None]:
    """Scale a weight where it lies, so that no graph is compiled again."""
    (held,) = (parameter for parameter in model.engine.graphs.parameters() if parameter.name == name)
    array = held.asnumpy()
    before = array.copy()
    array *= array.dtype.type(SCALE)
    model.clear_cache()
    try:
        yield
    finally:
        array[:] = before


def test_float16_weights_on_mindspores_products_give_the_references_tokens(half: Qwen2VLModel) -> None:
    model = half
    assert model.get_model_info()["dtype"] == "fp16"
    held = {parameter.name: str(parameter.dtype) for parameter in model.engine.graphs.parameters()}
    assert held["model.layers.0.self_attn.o_proj.weight"] == held["visual.blocks.0.mlp.fc1.weight"] == "Float16"
    assert held["model.embed_tokens.weight"] == held["model.norm.weight"] == "Float32"
    for name in ("word_56x56", "line_392x28", "text_only"):
        golden = case(name)
        assert run(model, golden["messages"], golden["max_new_tokens"]).token_ids == golden["token_ids"]


@pytest.mark.parametrize(
    ("weight", "part"),
    [
        ("model.layers.3.mlp.down_proj.weight", "model.layers.3.mlp"),
        ("model.layers.2.self_attn.o_proj.weight", "model.layers.2.self_attn"),
        ("visual.blocks.2.mlp.fc2.weight", "visual.blocks.2"),
    ],
)
def test_an_overflow_of_float16_names_the_part_in_which_it_began(half: Qwen2VLModel, weight: str, part: str) -> None:
    messages = case("word_56x56" if weight.startswith("visual") else "text_only")["messages"]
    with scaled(half, weight), pytest.raises(PageError) as error:
        half.infer(messages)
    assert str(error.value) == f"{part} produced values that are not finite {REMEDY}"


def test_in_float32_as_is_advised_the_same_page_does_not_overflow() -> None:
    model = of_mindspore("fp32", ScaledCheckpoint("visual.blocks.2.mlp.fc2.weight"))
    assert np.isfinite(run(model, case("word_56x56")["messages"], 1).steps[0].numpy()).all()  # type: ignore[index]


def test_a_page_that_overflows_leaves_the_others_of_its_batch_alone(half: Qwen2VLModel) -> None:
    text = case("text_only")
    batch = [case("word_56x56")["messages"], text["messages"]]
    with scaled(half, "visual.merger.mlp.2.weight"):
        ended = dict(half.generate_batch(batch, text["max_new_tokens"], 2))
    assert str(ended[0]) == f"visual.merger produced values that are not finite {REMEDY}"
    assert getattr(ended[1], "token_ids", None) == text["token_ids"]


@pytest.mark.parametrize(
    ("attn", "part"), [("eager", "model.layers.2.self_attn"), ("flash", "model.layers.2")], ids=["eager", "flash"]
)
def test_an_overflow_while_decoding_ends_the_page_and_its_slot_is_not_reused(attn: Any, part: str) -> None:
    if attn == "flash" and not native.available()[0]:
        pytest.skip(native.available()[1])
    model, golden = Qwen2VLModel(attn=attn, dtype="fp32"), case("line_392x28")
    generation = model.requests.generation(golden["messages"], None)
    tokens = model.scheduler.run(generation)
    assert next(tokens) == golden["token_ids"][0]
    assert generation.lease is not None
    keys, values = model.engine.kv.read(generation.lease.slot, generation.cached)
    keys[2, :, 5] = np.nan
    model.engine.kv.write(generation.lease.slot, keys, values)
    with pytest.raises(PageError) as error:
        list(tokens)
    remedy = "check whether the checkpoint itself contains such values, and copy it again"
    assert str(error.value) == f"{part} produced values that are not finite (weights in fp32): {remedy}"
    compilations = model.get_model_info()["compilations"]
    again = model.generate(golden["messages"])
    assert again.token_ids == golden["token_ids"]
    assert again.reused_tokens == 0
    assert model.get_model_info()["compilations"] == compilations
