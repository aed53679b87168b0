"""Tests of the conversion of messages to tokens and of tokens to text."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mindnlp_ocr.config import ModelConfig
from mindnlp_ocr.errors import PageError, SetupError
from mindnlp_ocr.models.qwen2vl import EMBEDDED
from mindnlp_ocr.processing.chat import ChatProcessor, image_sources
from mindnlp_ocr.processing.images import ImageProcessor

CONFIG = ModelConfig.from_folder(EMBEDDED)
IMAGES = ImageProcessor.from_folder(EMBEDDED)
PROCESSOR = ChatProcessor(EMBEDDED, CONFIG, IMAGES)
SHAPE = 'pass [{"role": "user", "content": [{"type": "image", "image": ...}, {"type": "text", "text": ...}]}]'
PAGE = Image.new("RGB", (56, 56), "white")  # 4 tokens


def ask(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def text(content: str) -> dict[str, str]:
    return {"type": "text", "text": content}


def image(source: Any) -> dict[str, Any]:
    return {"type": "image", "image": source}


def shown(messages: Any) -> str:
    """The prompt as text, special tokens included."""
    return PROCESSOR.tokenizer.decode(PROCESSOR.prompt(messages).token_ids, skip_special_tokens=False)


def refusal(messages: Any) -> str:
    with pytest.raises(PageError) as error:
        PROCESSOR.prompt(messages)
    message = str(error.value)
    assert "\n" not in message
    return message


# Malformed messages


@pytest.mark.parametrize(
    ("messages", "decisive"),
    [
        ("read this", "messages are str of length 9"),
        (b"read this", "messages are bytes of length 9"),
        ({"role": "user", "content": "x"}, "messages are dict of length 2"),
        ([], "messages are list of length 0"),
        (None, "messages are NoneType"),
        (5, "messages are int"),
        (iter([{"role": "user", "content": "x"}]), "messages are list_iterator"),
        ([5], "a message is 5, which has no role and content"),
        ([None], "a message is None, which has no role and content"),
        (["x"], "a message is 'x', which has no role and content"),
        ([{"role": "user"}], "a message is {'role': 'user'}, which has no role and content"),
        ([{"content": "x"}], "a message is {'content': 'x'}, which has no role and content"),
        ([{"role": "user", "content": "x"}, {"text": "y"}], "a message is {'text': 'y'}, which has no role and content"),
        ([{"role": "user", "content": None}], "NoneType"),
        ([{"role": "user", "content": 5}], "int"),
        ([{"role": "user", "content": b"x"}], "a part of a message is int"),
        ([{"role": "user", "content": {}}], "dict"),
        ([{"role": "user", "content": text("x")}], "dict"),
        (ask("x"), "a part of a message is str"),
        (ask(None), "a part of a message is NoneType"),
        (ask({}), "a part of a message has neither an image nor a text"),
        (ask({"type": "text"}), "a part of a message has neither an image nor a text"),
        (ask(text("x"), {"type": "text", "text": 5}), "a part of a message has neither an image nor a text"),
        (ask({"type": "audio", "audio": "x.wav"}), "a part of a message has neither an image nor a text"),
        (ask({"type": "image"}), "an image part contains no image"),
        (ask(image(None)), "an image part contains no image"),
        (ask({"type": "image_url", "image_url": {}}), "an image part contains no image"),
        (ask({"type": "image_url", "image_url": {"url": None}}), "an image part contains no image"),
    ],
)
def test_malformed_messages_say_what_was_found_and_the_shape_that_is_read(messages: Any, decisive: str) -> None:
    message = refusal(messages)
    assert decisive in message
    assert message.endswith(SHAPE)


def test_a_long_malformed_message_is_not_printed_whole() -> None:
    assert len(refusal([{"text": "x" * 100_000}])) < 300


@pytest.mark.parametrize("part", [{"type": "video", "video": "a.mp4"}, {"video": "a.mp4"}, {"type": "video"}])
def test_a_video_is_refused_with_what_to_give_instead(part: dict[str, str]) -> None:
    assert refusal(ask(part)) == "a message contains a video: this engine reads only images, so pass its frames as images"


@pytest.mark.parametrize("source", [5, 1.5, ["page.png"], {"path": "page.png"}, True])
def test_an_image_of_an_unknown_kind_is_the_pages_error(source: Any) -> None:
    assert refusal(ask(image(source)))


def test_one_image_of_several_that_is_missing_is_named() -> None:
    assert refusal(ask(image(PAGE), image("no.png"))) == "no.png is missing: pass an image file"


def test_half_a_character_in_a_text_is_the_pages_error() -> None:
    """A lone surrogate: what Python makes of a command line that is not UTF-8."""
    assert refusal(ask(text("\udcff")))


# The image token


def test_the_image_token_in_a_text_is_refused_with_and_without_an_image() -> None:
    leave_out = "<|image_pad|>: remove this token"
    assert refusal([{"role": "user", "content": "<|image_pad|>"}]) == f"0 images, but the text has 1 {leave_out}"
    assert refusal(ask(image(PAGE), text("x <|image_pad|><|image_pad|>"))) == f"1 images, but the text has 3 {leave_out}"


def test_every_image_takes_its_own_number_of_tokens_in_the_order_of_the_messages() -> None:
    small, wide, tall = (Image.new("RGB", size, "white") for size in ((56, 56), (280, 56), (56, 112)))
    messages = [
        {"role": "system", "content": "Be exact."},
        {"role": "user", "content": [image(small), text("a"), image(wide), text("b")]},
        {"role": "assistant", "content": "A b."},
        {"role": "user", "content": [text("c"), image(np.asarray(tall))]},
    ]
    prompt = PROCESSOR.prompt(messages)
    assert [patches.grid_thw for patches in prompt.images] == [(1, 4, 4), (1, 4, 20), (1, 8, 4)]
    assert prompt.token_ids.dtype == np.int32
    assert np.count_nonzero(prompt.token_ids == CONFIG.image_token_id) == 4 + 20 + 8

    def pads(count: int) -> str:
        return f"<|vision_start|>{'<|image_pad|>' * count}<|vision_end|>"

    assert shown(messages) == (
        "<|im_start|>system\nBe exact.<|im_end|>\n"
        f"<|im_start|>user\n{pads(4)}a{pads(20)}b<|im_end|>\n"
        "<|im_start|>assistant\nA b.<|im_end|>\n"
        f"<|im_start|>user\nc{pads(8)}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_without_a_system_message_the_published_one_comes_first() -> None:
    assert shown([{"role": "user", "content": "x"}]) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"
    )


def test_every_way_to_name_an_image_gives_the_same_prompt(tmp_path: Path) -> None:
    path = tmp_path / "page.png"
    PAGE.save(path)
    name = str(path)
    expected = PROCESSOR.prompt(ask(image(PAGE), text("x")))
    assert np.count_nonzero(expected.token_ids == CONFIG.image_token_id) == 4
    for part in (
        image(name),
        image(path),
        {"image": name},
        {"type": "image_url", "image_url": {"url": name}},
        {"type": "image_url", "image_url": name},
        {"image_url": {"url": name, "detail": "high"}},
    ):
        assert image_sources(ask(part)) == [part.get("image", name)]
        prompt = PROCESSOR.prompt(ask(part, text("x")))
        np.testing.assert_array_equal(prompt.token_ids, expected.token_ids)
        np.testing.assert_array_equal(prompt.images[0].patches().pixels, expected.images[0].patches().pixels)


def test_messages_are_left_as_they_were() -> None:
    messages = ask(image("tests/pages/word_56x56.png"), text("x"))
    before = json.dumps(messages)
    PROCESSOR.prompt(messages)
    assert json.dumps(messages) == before


# Text as it grows


def streamed(token_ids: list[int]) -> list[str]:
    stream = PROCESSOR.stream()
    return [stream.feed(token) for token in token_ids]


@pytest.mark.parametrize(
    "content", ["停水通知：各位居民", "🙂", "👨‍👩‍👧 家", "é à ü", "Invoice 20458713\n\n  total  €9", "龘靐齉", "e\u0301x"]
)
def test_streamed_pieces_add_up_to_the_decoded_text(content: str) -> None:
    ids = PROCESSOR.tokenizer.encode(content, add_special_tokens=False).ids
    pieces = streamed(ids)
    assert "".join(pieces) == PROCESSOR.decode(ids)
    assert "\ufffd" not in "".join(pieces)


def test_a_character_of_several_tokens_appears_with_its_last_one() -> None:
    ids = PROCESSOR.tokenizer.encode("🙂", add_special_tokens=False).ids
    assert len(ids) == 4
    assert streamed(ids) == ["", "", "", "🙂"]


def test_special_tokens_are_not_text() -> None:
    ids = PROCESSOR.tokenizer.encode("a<|im_end|>", add_special_tokens=False).ids
    assert ids[-1] in CONFIG.eos_token_ids
    assert (streamed(ids), PROCESSOR.decode(ids)) == (["a", ""], "a")


@settings(deadline=None)
@given(st.lists(st.integers(0, 255) | st.integers(0, CONFIG.vocab_size - 1), max_size=12))
def test_any_tokens_at_all_stream_to_what_they_decode_to_once_the_characters_are_whole(ids: list[int]) -> None:
    """Tokens 0 to 255 are single bytes: most sequences of them are no UTF-8."""
    full_stop = PROCESSOR.tokenizer.encode(".", add_special_tokens=False).ids
    assert "".join(streamed(ids + full_stop)) == PROCESSOR.decode(ids + full_stop)


def test_an_answer_cut_inside_a_character_streams_the_same_text_as_it_returns() -> None:
    ids = PROCESSOR.tokenizer.encode("a🙂", add_special_tokens=False).ids[:-1]
    stream = PROCESSOR.stream()
    assert "".join([*map(stream.feed, ids), stream.end()]) == PROCESSOR.decode(ids) == "a\ufffd"


# Templates and tokenizers from anywhere


def folder_with(tmp_path: Path, template: str | None) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(EMBEDDED / "tokenizer.json", folder)
    if template is not None:
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{% for c in ().__class__.__base__.__subclasses__() %}{{ c }}{% endfor %}",
        "{{ ''['__class__']['__mro__'] }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('no') }}",
    ],
)
def test_a_template_that_reaches_for_pythons_insides_is_refused(tmp_path: Path, template: str) -> None:
    processor = ChatProcessor(folder_with(tmp_path, template), CONFIG, IMAGES)
    with pytest.raises(PageError, match=r"^the chat template rejects these messages: "):
        processor.prompt([{"role": "user", "content": "x"}])


@pytest.mark.parametrize(
    "template", ["{{ 1 / 0 }}", "{{ 'a' + 1 }}", "{{ messages[0]|int + 'a' }}", "{{ range(10**9)|list }}"]
)
def test_a_template_that_fails_as_it_runs_is_an_error_of_ours_not_a_traceback(tmp_path: Path, template: str) -> None:
    processor = ChatProcessor(folder_with(tmp_path, template), CONFIG, IMAGES)
    with pytest.raises(PageError, match=r"^the chat template rejects these messages: "):
        processor.prompt([{"role": "user", "content": "x"}])


def test_a_template_that_does_not_parse_is_a_fault_of_the_checkpoint(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "{% for message in messages %}")
    with pytest.raises(SetupError) as error:
        ChatProcessor(folder, CONFIG, IMAGES)
    assert str(error.value).startswith(f"{folder}: the chat template is broken (")
    assert str(error.value).endswith("): copy it again")


def test_a_template_is_found_in_each_of_its_three_places(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, None)
    with pytest.raises(SetupError) as error:
        ChatProcessor(folder, CONFIG, IMAGES)
    assert str(error.value).startswith(f"{folder} has no chat template (chat_template.json, .jinja)")
    for name in ("chat_template.jinja", "tokenizer_config.json", "chat_template.json"):
        content = f"{{{{ '{name}' }}}}"
        as_json = json.dumps({"chat_template": content})
        (folder / name).write_text(content if name.endswith("jinja") else as_json, encoding="utf-8")
        processor = ChatProcessor(folder, CONFIG, IMAGES)
        assert processor.decode(processor.prompt([{"role": "user", "content": "x"}]).token_ids.tolist()) == name


def test_a_template_that_is_not_utf_8_is_a_fault_of_the_checkpoint(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, None)
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe{{ messages }}")
    with pytest.raises(SetupError, match="copy it again"):
        ChatProcessor(folder, CONFIG, IMAGES)


def test_a_template_that_drops_the_images_is_refused(tmp_path: Path) -> None:
    processor = ChatProcessor(folder_with(tmp_path, "no images here"), CONFIG, IMAGES)
    with pytest.raises(PageError, match=r"^1 images, but the text has 0 "):
        processor.prompt(ask(image(PAGE)))


def test_a_tokenizer_that_is_missing_or_broken_names_its_file(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "x")
    path = folder / "tokenizer.json"
    path.write_text('{"version": "1.0"', encoding="utf-8")
    with pytest.raises(SetupError) as error:
        ChatProcessor(folder, CONFIG, IMAGES)
    assert str(error.value).startswith(f"{path} cannot be read (")
    assert str(error.value).endswith("): copy it again")
    path.unlink()
    with pytest.raises(SetupError) as error:
        ChatProcessor(folder, CONFIG, IMAGES)
    assert str(error.value) == f"{path} is missing: pass a complete Qwen2-VL folder"


def test_a_tokenizer_of_another_checkpoint_is_noticed() -> None:
    other = CONFIG.model_copy(update={"image_token_id": 151_655})
    with pytest.raises(
        SetupError,
        match=r"tokenizer.json has no token 151655, the image token in config.json: use files of one checkpoint",
    ):
        ChatProcessor(EMBEDDED, other, IMAGES)


@pytest.mark.parametrize("name", ["patch_size", "temporal_patch_size", "merge_size"])
def test_an_image_processor_that_cuts_other_patches_than_the_model_takes_is_noticed(name: str) -> None:
    other = IMAGES.model_copy(update={name: 4})
    with pytest.raises(SetupError, match=f"{name} is 4"):
        ChatProcessor(EMBEDDED, CONFIG, other)
