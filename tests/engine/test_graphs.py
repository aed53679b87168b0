"""Tests of static shapes: which graphs are compiled, and when no further compilation happens."""

import gc
import subprocess
import sys

import numpy as np
import pytest
from mindspore.common.api import ms_compile_cache
from PIL import Image

from mindnlp_ocr.cache.config import CacheConfig
from mindnlp_ocr.engine.buckets import bucket_for, bucket_sizes
from mindnlp_ocr.engine.engine import burst
from mindnlp_ocr.engine.graphs import NewToken
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
from mindnlp_ocr.ops import native


def test_buckets_are_powers_of_two_and_their_midpoints_up_to_the_largest() -> None:
    assert list(bucket_sizes(64, 700)) == [64, 96, 128, 192, 256, 384, 512, 700]
    assert [bucket_for(n, 64, 700) for n in (1, 64, 65, 97, 385, 600, 700)] == [64, 64, 96, 128, 512, 700, 700]


def test_nothing_compiles_before_it_is_needed_and_a_small_page_needs_three_graphs() -> None:
    model = Qwen2VLModel()
    assert model.get_model_info()["compilations"] == 0
    model.infer(_ask(Image.open("tests/pages/word_56x56.png"), "OCR"))
    assert model.get_model_info()["compilations"] == 3


def test_after_warm_up_30_images_of_different_sizes_and_prompts_compile_nothing() -> None:
    model = Qwen2VLModel(max_pixels=25_088, max_length=128)
    model.warm_up()
    warm, mindspores_own_count = model.get_model_info()["compilations"], len(ms_compile_cache)
    random = np.random.default_rng(0)
    for number in range(30):
        width, height = random.integers(30, 900, 2)
        page = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
        model.infer(_ask(page, "Text: " * (number % 20 + 1)), max_new_tokens=3)
    assert model.get_model_info()["compilations"] == warm
    assert len(ms_compile_cache) == mindspores_own_count


@pytest.mark.skipif(not native.available()[0], reason=native.available()[1])
def test_a_compiled_decode_step_reads_weights_and_slots_where_they_lie() -> None:
    model = Qwen2VLModel()
    model.infer(_ask(Image.open("tests/pages/word_56x56.png"), "OCR"))
    graphs, kv = model.engine.graphs, model.engine.kv

    def logits() -> bytes:
        return graphs.decode([NewToken(5, 20, 0, 30)])[0].numpy().tobytes()

    before = logits()
    weight = next(held for held in graphs.parameters() if held.name == "model.layers.3.mlp.down_proj.weight")
    for held in (weight, kv.keys[2], kv.values[5]):
        array = held.asnumpy().view(np.uint8)
        copy = array.copy()
        array[:] = 0
        assert logits() != before
        array[:] = copy
        assert logits() == before


@pytest.mark.parametrize(
    ("tokens_per_second", "most", "tokens"), [(10, 32, 1), (19, 32, 1), (200, 32, 10), (2000, 32, 32), (2000, 1, 1)]
)
def test_a_call_takes_as_many_tokens_as_a_twentieth_of_a_second(tokens_per_second: float, most: int, tokens: int) -> None:
    assert burst(tokens_per_second, most) == tokens


def test_graphs_of_a_model_that_is_gone_are_forgotten() -> None:
    before = set(ms_compile_cache)
    model = Qwen2VLModel()
    model.infer(_ask(Image.open("tests/pages/word_56x56.png"), "OCR"))
    assert set(ms_compile_cache) - before
    del model
    gc.collect()
    assert set(ms_compile_cache) <= before


def test_graphs_over_slots_that_are_replaced_are_forgotten_and_those_of_vision_stay() -> None:
    model = Qwen2VLModel(cache_config=CacheConfig(slots=2))
    messages = _ask(Image.open("tests/pages/word_56x56.png"), "OCR")
    text, before = model.infer(messages), set(ms_compile_cache)
    model.update_cache_config(CacheConfig(slots=3))
    assert len(before - set(ms_compile_cache)) == 2  # prefill and decode
    assert model.infer(messages) == text
    assert model.get_model_info()["compilations"] == 5


MEMORY = """
import gc
from pathlib import Path
from mindnlp_ocr.cache.config import CacheConfig
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20

messages, after = [{"role": "user", "content": "Hello"}], []
for _ in range(6):
    model = Qwen2VLModel()
    for slots in (8, 7):
        model.update_cache_config(CacheConfig(slots=slots))
        model.infer(messages, 3)
    del model
    gc.collect()
    after.append(resident())
print(max(after[2:]) - min(after[2:]))
"""


def test_models_that_come_and_go_and_slots_that_are_replaced_leave_no_memory_behind() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 60  # MB; the slots of one model are 96


def _ask(image: Image.Image, text: str) -> list[dict[str, object]]:
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]
