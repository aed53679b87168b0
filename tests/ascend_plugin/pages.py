"""The whole network over AscendAttention and the emulated operators: the tokens of pages are those of the reference.

Run by tests/ops/test_ascend.py in a process of its own, as checks.py is.
"""

from collections.abc import Iterator

import pytest

from mindnlp_ocr.engine.generate import Generation
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
from tests.ascend_plugin.network import model_over_ascend
from tests.conftest import case

PAGES = ["word_56x56", "line_392x28", "zh_line_336x34", "paper_392x224", "alpha_308x140", "two_images", "text_only"]


@pytest.fixture(scope="module")
def model_on_ascend() -> Iterator[Qwen2VLModel]:
    with pytest.MonkeyPatch.context() as patch:
        yield model_over_ascend(patch)


@pytest.mark.parametrize("name", PAGES)
def test_sixteen_bit_attention_gives_the_references_tokens(model_on_ascend: Qwen2VLModel, name: str) -> None:
    golden, model = case(name), model_on_ascend
    prompt = model._processor.prompt(golden["messages"])
    run = Generation(model._graphs, model.config, prompt, golden["max_new_tokens"], model._max_length, True)
    assert list(run) == golden["token_ids"]
    assert run.finish_reason == golden["finish_reason"]
