"""Reader with this engine, without cached prefixes."""

from typing import Any

from common import CHECKPOINT, PROMPT, Reader, figures

from mindnlp_ocr import Qwen2VLModel


class Ours(Reader):
    packages = ("mindnlp-ocr", "mindspore")

    def __init__(self, dtype: str) -> None:
        self._model = Qwen2VLModel(CHECKPOINT, dtype=dtype)

    def read(self, path: str) -> dict[str, Any]:
        self._model.clear_cache()  # otherwise the second and later runs of a page would find it in the cache
        content = [{"type": "image", "image": path}, {"type": "text", "text": PROMPT}]
        reading = self._model.generate([{"role": "user", "content": content}])
        times = reading.timings_ms
        first = times["preprocess"] + times["vision"] + times["prefill"]
        return figures(reading.text, times["total"], first, reading.prompt_tokens, reading.token_ids)


def open_reader(dtype: str = "auto") -> Reader:
    return Ours(dtype)
