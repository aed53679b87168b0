"""Reader with transformers on PyTorch, in float32. A streamer records when ``generate`` emits the first token."""

import time
from typing import Any

import torch  # type: ignore[import-not-found, unused-ignore]
from common import CHECKPOINT, MAX_NEW_TOKENS, Reader, figures, prompt
from PIL import Image
from tokenizers import Tokenizer
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor


class Clock:
    """A streamer that records the time of each call: the first is for the prompt, the others are for tokens."""

    def __init__(self) -> None:
        self.calls: list[float] = []

    def put(self, _: Any) -> None:
        self.calls.append(time.perf_counter())

    def end(self) -> None: ...


class Transformers(Reader):
    def __init__(self, model: Any, packages: tuple[str, ...]) -> None:
        self._model, self.packages = model, packages
        self._tokenizer = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
        self._images = Qwen2VLImageProcessor.from_pretrained(CHECKPOINT)

    def read(self, path: str) -> dict[str, Any]:
        start = time.perf_counter()
        batch = self._images(images=[Image.open(path).convert("RGB")], return_tensors="pt")
        pads = "<|image_pad|>" * (int(batch["image_grid_thw"].prod()) // 4)
        ids = torch.tensor([self._tokenizer.encode(prompt(pads)).ids])
        clock = Clock()
        with torch.inference_mode():
            output = self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                **batch,
                do_sample=False,
                max_new_tokens=MAX_NEW_TOKENS,
                streamer=clock,
            )
        tokens = output[0, ids.shape[1] :].tolist()
        text = self._tokenizer.decode(tokens)
        page, first = (time.perf_counter() - start) * 1e3, (clock.calls[1] - start) * 1e3
        return figures(text, page, first, ids.shape[1], tokens)


def open_reader() -> Reader:
    model = Qwen2VLForConditionalGeneration.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()
    return Transformers(model, ("transformers", "torch"))
