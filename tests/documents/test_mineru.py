"""Tests that mineru-vl-utils gives the same blocks and texts with our engine as with transformers."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from mineru_vl_utils.mineru_client import DEFAULT_SAMPLING_PARAMS, MinerUSamplingParams
from mineru_vl_utils.vlm_client.base_client import RequestError, UnsupportedError, VlmClient
from PIL import Image

from mindnlp_ocr.documents.mineru import EngineMinerUClient, EngineVlmClient
from mindnlp_ocr.errors import PageError
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
from tests.conftest import GOLDENS, ROOT
from tests.documents.scripted import LAYOUT, TEXT, ScriptedModel, by_prompt

GOLDEN = json.loads((GOLDENS / "mineru.json").read_text(encoding="utf-8"))
WITHOUT_PENALTIES = {
    kind: MinerUSamplingParams(max_new_tokens=GOLDEN["about"]["max_new_tokens"]) for kind in DEFAULT_SAMPLING_PARAMS
}


def opened(name: str) -> Image.Image:
    with Image.open(ROOT / name) as image:
        return image.convert("RGB")


def two_steps(model: Qwen2VLModel) -> EngineMinerUClient:
    size = tuple(GOLDEN["about"]["layout_size"])
    return EngineMinerUClient(EngineVlmClient(model), None, WITHOUT_PENALTIES, layout_image_size=size)


def shown(blocks: Any) -> list[dict[str, Any]]:
    """Blocks as the golden has them, without what only we add."""
    return [{name: value for name, value in block.items() if name not in ("label", "scored")} for block in blocks]


@pytest.mark.parametrize("name", GOLDEN["pages"])
def test_layout_and_blocks_are_those_of_its_transformers_backend(model: Qwen2VLModel, name: str) -> None:
    result = two_steps(model).two_step_extract(opened(name), scored=True)
    assert result.layout_scored is not None
    assert result.layout_scored.text == GOLDEN["pages"][name]["layout"]
    assert shown(result) == GOLDEN["pages"][name]["blocks"]
    assert all(block.scored is None or block.scored.fault is None for block in result)


def test_event_loops_and_batches_read_the_same(model: Qwen2VLModel) -> None:
    names = ["examples/receipt.png", "examples/invoice.png"]
    images, client = [opened(name) for name in names], two_steps(model)
    golden = [GOLDEN["pages"][name]["blocks"] for name in names]
    assert [shown(blocks) for blocks in client.batch_two_step_extract(images)] == golden

    async def both() -> Any:
        return await client.aio_concurrent_two_step_extract(images), await client.aio_two_step_extract(images[0])

    several, one = asyncio.run(both())
    assert [shown(blocks) for blocks in several] == golden
    assert shown(one) == golden[0]


def test_the_methods_of_a_client_agree_and_special_tokens_stay(model: Qwen2VLModel) -> None:
    client, image = EngineVlmClient(model), opened("tests/pages/line_392x28.png")
    text = client.predict(image, TEXT)
    assert text == (ROOT / "tests/pages/line_392x28.txt").read_text(encoding="utf-8").strip()
    assert client.batch_predict([image, image], [TEXT, TEXT]) == [text, text]
    assert asyncio.run(client.aio_predict(image, TEXT)) == text
    assert asyncio.run(client.aio_batch_predict([image, image], TEXT)) == [text, text]
    scored = client.predict_scored(image, TEXT)
    assert len(scored.logprobs) == len(scored.token_ids) + 1  # the end of the text has a probability, and no text
    assert scored.perplexity >= 1
    layout = client.predict(opened("examples/receipt.png").resize((616, 616)), LAYOUT)
    assert layout.startswith("<|box_start|>")
    assert "<|im_end|>" not in layout


def test_a_request_of_an_event_loop_that_is_given_up_frees_its_slot(model: Qwen2VLModel) -> None:
    client = EngineVlmClient(model)

    async def give_up() -> None:
        task = asyncio.create_task(client.aio_predict(opened("examples/letter.png").resize((616, 616)), LAYOUT))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
    assert model.scheduler.stats()["running"] == 0


def test_their_settings_become_ours(tmp_path: Path) -> None:
    client = EngineVlmClient(scripted(tmp_path))
    table = client.sampling(DEFAULT_SAMPLING_PARAMS["table"])
    assert (table.temperature, table.top_p, table.top_k, table.no_repeat_ngram_size) == (0, 0.01, 1, 100)
    assert (table.presence_penalty, table.frequency_penalty, table.repetition_penalty) == (1.0, 0.005, 1.0)
    assert not table.skip_special_tokens
    assert client.sampling(None).greedy
    default = EngineVlmClient(scripted(tmp_path), max_new_tokens=9, sampling_params=MinerUSamplingParams(top_k=5))
    assert (default.sampling(None).top_k, default.sampling(None).max_new_tokens) == (5, 9)
    assert default.sampling(MinerUSamplingParams(max_new_tokens=3)).max_new_tokens == 3


def scripted(folder: Path, **answers: Any) -> Any:
    return ScriptedModel(by_prompt({TEXT: "a", **answers}), folder)


def test_images_stand_where_they_are_asked_for(tmp_path: Path) -> None:
    model = scripted(tmp_path)

    def kinds(prompt: str, image: Any, **options: Any) -> list[str]:
        messages = EngineVlmClient(model, **options).messages(image, prompt)
        assert messages[0] == {"role": "system", "content": "You are a helpful assistant."}
        return [part.get("text", part.get("image")) for part in messages[1]["content"]]

    assert kinds("b", "a.png") == ["a.png", "b"]
    assert kinds("b", "a.png", text_before_image=True) == ["b", "a.png"]
    assert kinds("x<image>y", "a.png") == ["x", "a.png", "y"]
    assert kinds("<image>y<image>", ["a.png", "b.png"]) == ["a.png", "y", "b.png"]
    assert kinds("b", None) == ["b"]
    assert len(EngineVlmClient(model, system_prompt="").messages(None, "b")) == 1


def test_what_cannot_be_read_is_an_error_or_an_empty_text(tmp_path: Path) -> None:
    image = Image.new("RGB", (30, 30))
    model = scripted(tmp_path, bad=PageError("too large"), long=("half", "length"))
    with pytest.raises(RequestError, match="too large"):
        EngineVlmClient(model).batch_predict([image, image], [TEXT, "bad"])
    isolated = EngineVlmClient(model, isolate_block_errors=True)
    assert isolated.batch_predict([image, image], [TEXT, "bad"]) == ["a", ""]
    assert isolated.predict_scored(image, "bad").fault == "too large"
    assert EngineVlmClient(model).predict(image, "long") == "half"
    with pytest.raises(RequestError, match=r"cut off after 4 tokens \(length\): allow more new tokens"):
        EngineVlmClient(model, allow_truncated_content=False).predict(image, "long")
    with pytest.raises(RequestError, match="2 images come with 1 settings: pass one for each, or one for all"):
        EngineVlmClient(model).batch_predict([image, image], [TEXT])
    with pytest.raises(RequestError, match="the reading was cancelled"):
        EngineVlmClient(model, wanted=lambda: False).predict(image, TEXT)


def test_every_method_of_the_interface_is_ours_but_teacher_forcing() -> None:
    theirs = {name for name, value in vars(VlmClient).items() if "predict" in name and callable(value)}
    assert theirs <= set(vars(EngineVlmClient))
    with pytest.raises(UnsupportedError):
        EngineVlmClient.score(object.__new__(EngineVlmClient), None, "a")
