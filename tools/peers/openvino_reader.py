"""Reader with OpenVINO GenAI and an export of the checkpoint. Its streamer receives token ids, so no text is tokenized."""

import sys
import time
from typing import Any

import numpy as np
import openvino as ov  # type: ignore[import-not-found, unused-ignore]
import openvino_genai as genai  # type: ignore[import-not-found, unused-ignore]
from common import MAX_NEW_TOKENS, Reader, figures, prompt
from PIL import Image


class Clock(genai.StreamerBase):  # type: ignore[misc, unused-ignore]
    """A streamer that records the tokens and the time of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.tokens = 0.0, list[int]()

    def write(self, tokens: int | list[int]) -> Any:
        self.first = self.first or time.perf_counter()
        self.tokens += [tokens] if isinstance(tokens, int) else tokens
        return genai.StreamingStatus.RUNNING

    def end(self) -> None: ...


class OpenVINO(Reader):
    packages = ("openvino-genai",)

    def __init__(self, folder: str, precision: str) -> None:
        # The defaults, except for prefix caching, with which the second and later runs of a page would skip the prefill.
        scheduler = genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False
        scheduler.max_num_batched_tokens = sys.maxsize
        options: dict[str, Any] = {"scheduler_config": scheduler}
        if precision != "auto":  # with only the hint, the KV cache and the activations of int8 weights stay in 8 bits
            options |= {"INFERENCE_PRECISION_HINT": precision, "KV_CACHE_PRECISION": precision}
            options["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
        self._pipeline = genai.VLMPipeline(folder, "CPU", **options)
        self._config = self._pipeline.get_generation_config()  # with the end tokens
        self._config.do_sample, self._config.max_new_tokens = False, MAX_NEW_TOKENS
        self._config.apply_chat_template = False

    def read(self, path: str) -> dict[str, Any]:
        start = time.perf_counter()
        pixels = np.array(Image.open(path).convert("RGB"))[None]
        clock = Clock()
        result = self._pipeline.generate(
            prompt("<|image_pad|>"),  # the pipeline repeats this token as the image requires
            images=[ov.Tensor(pixels)],
            generation_config=self._config,
            streamer=clock,
        )
        page, first = (time.perf_counter() - start) * 1e3, (clock.first - start) * 1e3
        return figures(result.texts[0], page, first, result.perf_metrics.get_num_input_tokens(), clock.tokens)


def open_reader(folder: str, precision: str) -> Reader:
    return OpenVINO(folder, precision)
