"""The whole network over AscendBackend and the emulated operators: the tokens of pages are those of the reference.

Run by tests/backends/test_ascend.py in a process of its own, as checks.py is.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import mindnlp_ocr
from mindnlp_ocr.backends.select import attention_dtype_for, backends_for, operators_for
from mindnlp_ocr.cache.slots import KVSlots
from mindnlp_ocr.config import ModelConfig
from mindnlp_ocr.engine.graphs import Graphs, NewToken, PromptPart
from mindnlp_ocr.errors import PageError
from mindnlp_ocr.modeling.layers import Weights
from mindnlp_ocr.modeling.rope import mrope_positions
from mindnlp_ocr.ops.device import Device
from mindnlp_ocr.processing.chat import image_sources
from mindnlp_ocr.processing.images import ImageProcessor, load_image
from mindnlp_ocr.weights.folder import FolderWeights
from mindnlp_ocr.weights.quantize import WeightDtype
from tests.conftest import case

PAGES = ["word_56x56", "line_392x28", "zh_line_336x34", "alpha_308x140", "two_images", "text_only"]
FOLDER = Path(mindnlp_ocr.__file__).parent / "assets" / "qwen2vl-ocr-tiny"
SLOTS, MAX_LENGTH = 4, 128


class Page:
    """One golden case in a slot: its prompt in pieces, then its tokens one by one."""

    def __init__(self, graphs: Graphs, config: ModelConfig, name: str, slot: int, splits: list[int]) -> None:
        self.golden, self.slot, self.eos = case(name), slot, config.eos_token_ids
        processor = ImageProcessor.from_folder(FOLDER)
        images = [processor.patches(load_image(source)) for source in image_sources(self.golden["messages"])]
        features = [graphs.vision([image])[0] for image in images]
        rows = np.concatenate([np.zeros((0, config.hidden_size), np.float32), *features])
        ids = np.asarray(self.golden["prompt_ids"], np.int32)
        grids, merge = [image.grid_thw for image in images], config.vision.spatial_merge_size
        positions = mrope_positions(ids, grids, config.image_token_id, merge)
        self.live, self.delta = len(ids), positions.delta
        before = np.cumsum([0, *(ids == config.image_token_id)])  # features that the tokens before each one take
        for first, last in pairwise([0, *splits, len(ids)]):
            taken = rows[before[first] : before[last]]
            step = graphs.prefill(PromptPart(ids[first:last], [taken], positions.ids[:, first:last], slot, first))[0]
        self.token_ids = [step.token_id]

    @property
    def done(self) -> bool:
        return self.token_ids[-1] in self.eos or len(self.token_ids) == self.golden["max_new_tokens"]

    def next(self) -> NewToken:
        token = NewToken(self.token_ids[-1], self.live + self.delta, self.slot, self.live)
        self.live += 1
        return token


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return ModelConfig.from_folder(FOLDER)


@pytest.fixture(scope="module")
def graphs(config: ModelConfig) -> Graphs:
    return made(config, FolderWeights(FOLDER, config), "fp32", "fp16")


@pytest.fixture(scope="module")
def halves(config: ModelConfig) -> Graphs:
    """Over weights, keys and values of 16 bits."""
    return made(config, FolderWeights(FOLDER, config), "fp16", "bf16")


def made(config: ModelConfig, weights: Weights, dtype: WeightDtype, kv_dtype: str) -> Graphs:
    npu = Device("Ascend")
    backends = backends_for(npu, "flash", config, attention_dtype_for(npu, "flash", kv_dtype))
    kv = KVSlots(config, SLOTS, MAX_LENGTH, backends.text, kv_dtype)
    return Graphs(config, weights, MAX_LENGTH, operators_for(npu, dtype), backends, kv)


def read(graphs: Graphs, *pages: Page) -> None:
    """All pages beside one another, each until it is done."""
    while running := [page for page in pages if not page.done]:
        for page, step in zip(running, graphs.decode([page.next() for page in running]), strict=True):
            page.token_ids.append(step.token_id)
    for page in pages:
        assert page.token_ids == page.golden["token_ids"]


def copies_and_clears(graphs: Graphs) -> None:
    """A prefix goes to another slot, a slot becomes zero, and no other row changes."""
    kv, random = graphs._kv, np.random.default_rng(3)
    shape = (len(kv.keys), *kv.shape[1:])
    held = {slot: [random.standard_normal(shape).astype(kv.numpy_dtype) for _ in range(2)] for slot in range(SLOTS)}
    for slot, arrays in held.items():
        kv.write(slot, *arrays)
    graphs.copy_slot(1, 3, 20)
    for copied, source in zip(held[3], held[1], strict=True):
        copied[:, :, :20] = source[:, :, :20]
    graphs.clear_slot(0)
    held[0] = [np.zeros_like(array) for array in held[0]]
    for slot, arrays in held.items():
        for stored, expected in zip(kv.read(slot, MAX_LENGTH), arrays, strict=True):
            np.testing.assert_array_equal(stored, expected)
        graphs.clear_slot(slot)


def test_slots_are_copied_and_cleared_on_the_device(graphs: Graphs, halves: Graphs) -> None:
    """Of float16 and of bfloat16."""
    copies_and_clears(graphs)
    copies_and_clears(halves)


def test_sixteen_bit_attention_gives_the_references_tokens(graphs: Graphs, config: ModelConfig) -> None:
    """Of one page; of all of them: exported.py."""
    read(graphs, Page(graphs, config, "zh_line_336x34", 1, []))


@pytest.mark.parametrize("name", PAGES[:2])
def test_sixteen_bit_weights_give_the_references_tokens(halves: Graphs, config: ModelConfig, name: str) -> None:
    read(halves, Page(halves, config, name, 1, []))


def test_a_prompt_in_two_pieces_and_two_slots_at_once_give_the_references_tokens(
    graphs: Graphs, config: ModelConfig
) -> None:
    read(graphs, Page(graphs, config, "alpha_308x140", 2, [40]), Page(graphs, config, "line_392x28", 0, [3, 20]))


def test_an_overflow_of_float16_names_its_layer_in_a_prompt_and_while_decoding(halves: Graphs, config: ModelConfig) -> None:
    last = f"model.layers.{config.num_hidden_layers - 1}.mlp"  # the emulated operators refuse what is not finite
    (weight,) = (held.asnumpy() for held in halves.parameters() if held.name == f"{last}.down_proj.weight")
    before = weight.copy()
    weight *= np.float16(2e4)
    for read in (lambda: Page(halves, config, "text_only", 2, []), lambda: halves.decode([NewToken(11, 0, 2, 0)])):
        with pytest.raises(PageError) as error:
            read()
        assert str(error.value).startswith(
            f"{last} produced values that are not finite (weights in fp16): the limit of float"
        )
    weight[:] = before
