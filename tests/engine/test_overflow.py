"""Tests of 16-bit weights on MindSpore's operators: the reference's tokens, and errors that locate an overflow."""

from collections.abc import Iterator, Mapping
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
from tests.conftest import case, run

CPU, NPU = Device("CPU"), Device("Ascend")
REMEDY = (
    "(weights in fp16): the limit of float16 is 65504: use --dtype bf16 or fp32, and --kv-dtype bf16 with flash attention"
)


class Scaled(StoredWeights):
    """The embedded weights in float32, some of them scaled."""

    dtype = "fp32"

    def __init__(self, weights: StoredWeights, scales: Mapping[str, float]) -> None:
        self._weights, self._scales = weights, scales
        self.names = weights.names

    def __getitem__(self, name: str) -> Any:
        weight = self._weights[name]
        assert isinstance(weight, np.ndarray)
        return weight.astype(np.float32) * np.float32(self._scales.get(name, 1))


class ScaledCheckpoint(FolderCheckpoint):
    def __init__(self, **scales: float) -> None:
        super().__init__(EMBEDDED)
        self.scales = {name.replace("__", "."): scale for name, scale in scales.items()}

    @contextmanager
    def weights(self, config: ModelConfig) -> Iterator[Scaled]:  # type: ignore[override]
        with super().weights(config) as weights:
            yield Scaled(weights, self.scales)


@pytest.fixture
def of_mindspore(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU runs what an NPU runs: MindSpore's products, with weights in the dtype that an NPU would hold."""
    chosen = select.weight_dtype_for
    monkeypatch.setattr(select, "runs_ours", lambda device: False)
    monkeypatch.setattr(select, "weight_dtype_for", lambda device, asked, stored: chosen(NPU, asked, stored))


def half(**options: Any) -> Qwen2VLModel:
    options = {"attn": "eager", "dtype": "fp16", **options}
    return Qwen2VLModel(options.pop("model", EMBEDDED), **options)


@pytest.mark.usefixtures("of_mindspore")
def test_float16_weights_on_mindspores_products_give_the_references_tokens() -> None:
    model = half()
    assert model.get_model_info()["dtype"] == "fp16"
    held = {parameter.name: str(parameter.dtype) for parameter in model.engine.graphs.parameters()}
    assert held["model.layers.0.self_attn.o_proj.weight"] == held["visual.blocks.0.mlp.fc1.weight"] == "Float16"
    assert held["model.embed_tokens.weight"] == held["model.norm.weight"] == "Float32"
    for name in ("word_56x56", "line_392x28", "zh_line_336x34", "two_images", "text_only"):
        golden = case(name)
        assert run(model, golden["messages"], golden["max_new_tokens"]).token_ids == golden["token_ids"]


@pytest.mark.usefixtures("of_mindspore")
@pytest.mark.parametrize(
    ("weight", "part"),
    [
        ("model.layers.3.mlp.down_proj.weight", "model.layers.3.mlp"),
        ("model.layers.1.self_attn.o_proj.weight", "model.layers.1.self_attn"),
        ("visual.blocks.2.mlp.fc2.weight", "visual.blocks.2"),
    ],
)
def test_an_overflow_of_float16_names_the_part_in_which_it_began(weight: str, part: str) -> None:
    scaled = ScaledCheckpoint(**{weight.replace(".", "__"): 2e4})
    of_vision = weight.startswith("visual")
    model, messages = half(model=scaled), case("word_56x56" if of_vision else "text_only")["messages"]
    with pytest.raises(PageError) as error:
        model.infer(messages)
    assert str(error.value) == f"{part} produced values that are not finite {REMEDY}"
    if of_vision:  # what is advised is true
        assert np.isfinite(run(half(model=scaled, dtype="fp32"), messages, 2).steps[0].numpy()).all()  # type: ignore[index]


@pytest.mark.usefixtures("of_mindspore")
def test_a_page_that_overflows_leaves_the_others_of_its_batch_alone() -> None:
    model = half(model=ScaledCheckpoint(visual__merger__mlp__2__weight=2e4))
    text = case("text_only")
    ended = dict(model.generate_batch([case("word_56x56")["messages"], text["messages"]], text["max_new_tokens"], 2))
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
