"""Static shapes: what compiles, and when nothing does any more."""

import numpy as np
from mindspore.common.api import ms_compile_cache
from PIL import Image

from mindnlp_ocr.engine.buckets import bucket_for, bucket_sizes
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel


def test_buckets_are_powers_of_two_and_their_midpoints_up_to_the_largest() -> None:
    assert list(bucket_sizes(64, 700)) == [64, 96, 128, 192, 256, 384, 512, 700]
    assert [bucket_for(n, 64, 700) for n in (1, 64, 65, 97, 385, 600, 700)] == [64, 64, 96, 128, 512, 700, 700]


def test_nothing_compiles_before_it_is_needed_and_a_small_page_needs_three_graphs() -> None:
    model = Qwen2VLModel()
    assert model.get_model_info()["compilations"] == 0
    model.infer(_ask(Image.open("tests/pages/word_56x56.png"), "OCR"))
    assert model.get_model_info()["compilations"] == 3


def test_after_warm_up_30_images_of_different_sizes_and_prompts_compile_nothing() -> None:
    model = Qwen2VLModel(max_pixels=160_000)
    model.warm_up()
    warm, mindspores_own_count = model.get_model_info()["compilations"], len(ms_compile_cache)
    random = np.random.default_rng(0)
    for number in range(30):
        width, height = random.integers(30, 900, 2)
        page = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
        model.infer(_ask(page, "Text: " * (number + 1)), max_new_tokens=3)
    assert model.get_model_info()["compilations"] == warm
    assert len(ms_compile_cache) == mindspores_own_count


def _ask(image: Image.Image, text: str) -> list[dict[str, object]]:
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]
