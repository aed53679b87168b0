"""A stub model that returns scripted answers."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image

from mindnlp_ocr.engine.generate import FinishReason, Reading
from mindnlp_ocr.errors import PageError
from mindnlp_ocr.models.requests import Request

END = 0
Answer = str | tuple[str, FinishReason] | PageError
LAYOUT, TEXT, TABLE, FORMULA = (
    f"\n{name}:" for name in ("Layout Detection", "Text Recognition", "Table Recognition", "Formula Recognition")
)


def reading(text: str, finish_reason: FinishReason = "stop") -> Reading:
    """Create a reading of a text with one token for each character."""
    tokens = [ord(character) for character in text] + ([END] if finish_reason == "stop" else [])
    return Reading(text, tokens, [-0.01] * len(tokens), finish_reason, 10, 0, {"prefill": 1.0, "total": 5.0})


class ScriptedModel:
    """
    Args:
        script: gives the answer to a prompt about an image.
        folder: holds the checkpoint's JSON files.
    """

    slots = 4
    device = SimpleNamespace(leaves_host_free=False)

    def __init__(self, script: Callable[[str, Image.Image], Answer], folder: Path, **document_config: Any) -> None:
        self._script, self._folder = script, folder
        self.asked: list[tuple[str, tuple[int, int]]] = []
        self.requests: list[Request] = []
        self.checkpoint_path = str(folder)
        if document_config:
            (folder / "document_config.json").write_text(json.dumps(document_config), encoding="utf-8")

    @contextmanager
    def files(self) -> Iterator[Path]:
        yield self._folder

    def decode(self, token_ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        return "".join(chr(token) for token in token_ids if token != END)

    def pieces(self, token_ids: Iterable[int]) -> list[str]:
        return [self.decode([token]) for token in token_ids]

    def generate(
        self, messages: Any, max_new_tokens: int | None = None, on_text: Any = None, sampling: Any = None
    ) -> Reading:
        [(_, outcome)] = self.generate_batch([Request(messages, max_new_tokens, sampling)])
        if isinstance(outcome, PageError):
            raise outcome
        return outcome

    def generate_batch(
        self, requests: Iterable[Request], batch_size: int | None = None
    ) -> Iterator[tuple[int, Reading | PageError]]:
        for number, request in enumerate(requests):
            parts = request.messages[-1]["content"]
            [prompt] = [part["text"] for part in parts if part["type"] == "text"]
            [image] = [part["image"] for part in parts if part["type"] == "image"]
            self.asked.append((prompt, image.size))
            self.requests.append(request)
            answer = self._script(prompt, image)
            if isinstance(answer, PageError):
                yield number, answer
            else:
                yield number, reading(answer) if isinstance(answer, str) else reading(*answer)


def box(left: int, top: int, right: int, bottom: int, kind: str = "text", turn: str = "up", tail: str = "") -> str:
    """Return a line of a layout answer, with a box in thousandths of the page."""
    place = " ".join(f"{value:03}" for value in (left, top, right, bottom))
    return f"<|box_start|>{place}<|box_end|><|ref_start|>{kind}<|ref_end|><|rotate_{turn}|>{tail}"


def by_prompt(answers: Mapping[str, Answer]) -> Callable[[str, Image.Image], Answer]:
    """Return the same answer to every request with a prompt."""
    return lambda prompt, _: answers[prompt]
