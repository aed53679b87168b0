"""Chat messages to token ids, and token ids back to text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from mindnlp_ocr.config import ModelConfig, read_json
from mindnlp_ocr.errors import PageError, SetupError
from mindnlp_ocr.processing.images import ImageProcessor, ImageReader, PromptImage
from mindnlp_ocr.processing.tokenizer import tokenizer_of

Messages = Sequence[dict[str, Any]]


class Prompt(NamedTuple):
    """The inputs of the network for a prompt."""

    token_ids: NDArray[np.int32]  # [tokens], one image token for every feature of every image
    images: list[PromptImage]


class ChatProcessor:
    """A checkpoint's own tokenizer, chat template and image processor.

    The template is part of the checkpoint and therefore untrusted, so it runs in jinja2's sandbox.
    """

    def __init__(self, folder: Path, config: ModelConfig, images: ImageProcessor) -> None:
        self.tokenizer: Tokenizer = tokenizer_of(folder)
        self.images = images
        self._reader = ImageReader(images)
        vision = config.vision
        for ours, theirs in (
            ("patch_size", vision.patch_size),
            ("temporal_patch_size", vision.temporal_patch_size),
            ("merge_size", vision.spatial_merge_size),
        ):
            if (found := getattr(images, ours)) != theirs:
                raise SetupError(
                    f"{folder / 'preprocessor_config.json'}: {ours} is {found}, but config.json implies {theirs}: "
                    "copy both files again",
                    code="preprocessor_mismatch",
                )
        self._image_token = self.tokenizer.id_to_token(config.image_token_id)
        if self._image_token is None:
            raise SetupError(
                f"{folder / 'tokenizer.json'} has no token {config.image_token_id}, the image token in config.json: "
                "use files of one checkpoint",
                code="tokenizer_mismatch",
            )
        try:
            self._template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(
                _template(folder)
            )
        except TemplateError as error:
            raise SetupError(
                f"{folder}: the chat template is broken ({error}): copy it again", code="chat_template_broken"
            ) from error

    def prompt(self, messages: Messages) -> Prompt:
        """Render messages with the chat template, and preprocess their images.

        Args:
            messages: [{"role": "user", "content": text or [{"type": "image", "image": ...}, {"type": "text", ...}]}].

        Raises:
            PageError: the messages are malformed, or an image cannot be read.
        """
        _check(messages)
        images = [self._reader.read(source) for source in image_sources(messages)]
        try:
            text = self._template.render(messages=list(messages), add_generation_prompt=True, add_vision_id=False)
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise PageError(f"the chat template rejects these messages: {error}", code="chat_template_rejects") from error
        parts = text.split(self._image_token)
        if len(parts) != len(images) + 1:
            raise PageError(
                f"{len(images)} images, but the text has {len(parts) - 1} {self._image_token}: remove this token",
                code="image_token_in_text",
            )
        expanded = parts[0]
        for image, part in zip(images, parts[1:], strict=True):
            expanded += self._image_token * self.images.tokens(image.grid_thw) + part
        try:
            expanded.encode()
        except UnicodeEncodeError as error:
            raise PageError(
                f"a text of the messages is not valid Unicode ({error.reason}): use UTF-8", code="text_not_unicode"
            ) from error
        ids = self.tokenizer.encode(expanded, add_special_tokens=False).ids
        return Prompt(np.asarray(ids, np.int32), images)

    def forget_images(self) -> None:
        """Forget all images, so that they are opened again."""
        self._reader.forget()

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Decode tokens to text, by default without special tokens."""
        text: str = self.tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens)
        return text

    def stream(self, skip_special_tokens: bool = True) -> "TextStream":
        """Return a decoder for single tokens that gives the same text as ``decode``."""
        return TextStream(self.tokenizer, skip_special_tokens)


class TextStream:
    """Incremental decoder. A token that ends within a character gives ""; the token that completes it gives the
    character."""

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._stream = DecodeStream(skip_special_tokens=skip_special_tokens)
        self._token_ids: list[int] = []
        self._sent = 0

    def feed(self, token_id: int) -> str:
        self._token_ids.append(token_id)
        piece = self._stream.step(self._tokenizer, token_id) or ""
        self._sent += len(piece)
        return piece

    def end(self) -> str:
        """Return the rest of the text after the last token; an incomplete character decodes to U+FFFD."""
        text: str = self._tokenizer.decode(self._token_ids, skip_special_tokens=self._skip_special_tokens)
        return text[self._sent :]


def image_sources(messages: Messages) -> list[Any]:
    """Return the images of all messages in order."""
    parts = [part for m in messages if not isinstance(m["content"], str) for part in m["content"]]
    return [_image_of(part) for part in parts if _is_image(part)]


def _is_image(part: dict[str, Any]) -> bool:
    return part.get("type") in ("image", "image_url") or "image" in part or "image_url" in part


def _image_of(part: dict[str, Any]) -> Any:
    source = part.get("image", part.get("image_url"))
    return source.get("url") if isinstance(source, dict) else source


def _check(messages: Messages) -> None:
    shape = 'pass [{"role": "user", "content": [{"type": "image", "image": ...}, {"type": "text", "text": ...}]}]'
    if not isinstance(messages, Sequence):
        length = f" of length {len(messages)}" if isinstance(messages, dict) else ""
        raise PageError(f"messages are {type(messages).__name__}{length}: {shape}", code="messages_invalid")
    if isinstance(messages, str | bytes) or not messages:
        raise PageError(
            f"messages are {type(messages).__name__} of length {len(messages)}: {shape}", code="messages_invalid"
        )
    for message in messages:
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise PageError(f"a message is {message!r:.80}, which has no role and content: {shape}", code="messages_invalid")
        if isinstance(message["content"], str):
            continue
        if not isinstance(message["content"], Sequence):
            raise PageError(
                f"the content of a message is {type(message['content']).__name__}: {shape}", code="messages_invalid"
            )
        for part in message["content"]:
            if not isinstance(part, dict):
                raise PageError(f"a part of a message is {type(part).__name__}: {shape}", code="messages_invalid")
            if part.get("type") == "video" or "video" in part:
                raise PageError(
                    "a message contains a video: this engine reads only images, so pass its frames as images",
                    code="video_unsupported",
                )
            if _is_image(part) and _image_of(part) is None:
                raise PageError(f"an image part contains no image: {shape}", code="messages_invalid")
            if not _is_image(part) and not isinstance(part.get("text"), str):
                raise PageError(f"a part of a message has neither an image nor a text: {shape}", code="messages_invalid")


def _template(folder: Path) -> str:
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (folder / name).exists():
            template = read_json(folder / name).get("chat_template")
            if isinstance(template, str):
                return template
    if (folder / "chat_template.jinja").exists():
        try:
            return (folder / "chat_template.jinja").read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise SetupError(
                f"{folder / 'chat_template.jinja'} cannot be read ({error}): copy it again", code="checkpoint_unreadable"
            ) from error
    raise SetupError(
        f"{folder} has no chat template (chat_template.json, .jinja): pass a complete Qwen2-VL folder",
        code="chat_template_missing",
    )
