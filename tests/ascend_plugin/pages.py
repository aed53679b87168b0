"""The whole network over AscendAttention and the emulated operators: the tokens of pages are those of the reference.

Run by tests/ops/test_ascend.py in a process of its own, as checks.py is.
"""

from collections.abc import Iterator

import pytest

from mindnlp_ocr.engine.generate import Generation
from mindnlp_ocr.models import qwen2vl
from mindnlp_ocr.models.config import Qwen2VLConfig
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
from mindnlp_ocr.ops.device import Device
from mindnlp_ocr.ops.select import Attentions, attentions_for
from tests.conftest import case

PAGES = ["word_56x56", "line_392x28", "zh_line_336x34", "paper_392x224", "alpha_308x140", "two_images", "text_only"]


@pytest.fixture(scope="module")
def model_on_ascend() -> Iterator[Qwen2VLModel]:
    def for_an_npu(device: Device, implementation: str, config: Qwen2VLConfig) -> Attentions:
        return attentions_for(Device("Ascend"), "flash", config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qwen2vl, "attentions_for", for_an_npu)
        yield Qwen2VLModel()


@pytest.mark.parametrize("name", PAGES)
def test_sixteen_bit_attention_gives_the_references_tokens(model_on_ascend: Qwen2VLModel, name: str) -> None:
    golden, model = case(name), model_on_ascend
    prompt = model._processor.prompt(golden["messages"])
    run = Generation(model._graphs, model.config, prompt, golden["max_new_tokens"], model._max_length, True)
    assert list(run) == golden["token_ids"]
    assert run.finish_reason == golden["finish_reason"]
