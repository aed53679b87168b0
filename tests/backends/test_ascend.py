"""Attention for Ascend where there is none: what is refused, what can be exported, and what the graphs answer when a
test library stands in for the operators (tests/ascend_plugin)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from mindnlp_ocr.backends.ascend import AscendBackend, check_lengths
from mindnlp_ocr.errors import SetupError
from tests.ascend_plugin import cells

PLUGIN = Path(__file__).parent.parent / "ascend_plugin"
ATTENTION = (4, 2, 64)  # heads, kv_heads, head_dim
ONE, TWO = Tensor([1], ms.int32), Tensor([1, 1], ms.int32)
ONES = (ONE, ONE, ONE)  # slot, live, count


def zeros(*shape: int, dtype: Any = ms.float32) -> Tensor:
    return Tensor(np.zeros(shape), dtype)


def slots(*shape: int, dtype: Any = ms.float16) -> tuple[Parameter, Parameter]:
    keys, values = (Parameter(zeros(*shape, dtype=dtype), name=name, requires_grad=False) for name in ("keys", "values"))
    return keys, values


def qkv(*lead: int) -> tuple[Tensor, Tensor, Tensor]:
    return zeros(*lead, 4, 64), zeros(*lead, 2, 64), zeros(*lead, 2, 64)


# The operators, emulated


@pytest.fixture(scope="module")
def emulated_operators(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ to build the emulated operators with")
    library = tmp_path_factory.mktemp("ascend") / "operators.so"
    options = ["-std=c++17", "-O3", "-Wall", "-Wextra", "-Werror", "-fopenmp-simd", "-shared", "-fPIC"]
    subprocess.run([compiler, *options, str(PLUGIN / "operators.cc"), "-o", str(library)], check=True)
    return library


def test_the_graphs_pass_over_emulated_operators(emulated_operators: Path) -> None:
    files = [str(PLUGIN / name) for name in ("checks.py", "pages.py", "exported.py", "windows.py")]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *files, "-n", "0", "-p", "no:cacheprovider"],
        env={**os.environ, "MS_OP_PLUGIN_PATH": str(emulated_operators)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "skipped" not in run.stdout


# MindIR


@pytest.mark.parametrize(
    "dtype", [ms.float16, pytest.param(ms.bfloat16, marks=pytest.mark.slow)], ids=["float16", "bfloat16"]
)
@pytest.mark.parametrize(
    ("work", "operators"),
    [
        ("vision", ["FlashAttentionScore"]),
        ("prompt", ["PromptFlashAttention", "ScatterNdUpdate"]),
        ("decode", ["IncreFlashAttention", "ScatterNdUpdate"]),
        ("rms_norm", ["RmsNorm"]),
    ],
)
def test_each_call_is_exported_to_mindir_and_loaded_again(
    tmp_path: Path, work: str, operators: list[str], dtype: Any
) -> None:
    attention = AscendBackend(*ATTENTION, dtype)
    cache = slots(1, 2, 16, 64, dtype=dtype)
    cell, inputs = {
        "vision": (cells.Vision(attention), (*qkv(16), Tensor([0, 5, 12], ms.int32))),
        "prompt": (cells.Extend(attention, *cache), (*qkv(1, 16), *ONES)),
        "decode": (cells.Extend(attention, *cache), (*qkv(1, 1), *ONES)),
        "rms_norm": (cells.RmsNorm(), (zeros(3, 48), zeros(48))),
    }[work]
    ms.export(cell, *inputs, file_name=str(tmp_path / work), file_format="MINDIR")
    written = (tmp_path / f"{work}.mindir").read_bytes()
    assert all(name.encode() in written for name in operators)
    assert isinstance(nn.GraphCell(ms.load(str(tmp_path / f"{work}.mindir"))), nn.Cell)


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 2, 64, ms.float32), "in Float32: its operators support float16 and bfloat16; use one of them"),
        ((4, 2, 64, ms.int8), "in Int8: its operators support float16 and bfloat16; use one of them"),
        ((4, 2, 72), "head_dim is 72; its operators support multiples of 16 up to 512: use attention eager"),
        ((4, 2, 528), "head_dim is 528; its operators support multiples of 16 up to 512: use attention eager"),
        ((4, 3, 64), "4 heads over 3 key-value heads; its operators support up to 256 heads"),
        ((2, 4, 64), "2 heads over 4 key-value heads; its operators support up to 256 heads"),
        ((65, 1, 64), "at most 64 per key-value head and the same number for each: use attention eager"),
        ((257, 257, 16), "257 heads over 257 key-value heads; its operators support up to 256 heads"),
        ((0, 2, 64), "heads is 0; use a whole number from 1"),
        ((4, 2.0, 64), "kv_heads is 2.0; use a whole number from 1"),
        ((4, 2, -16), "head_dim is -16; use a whole number from 1"),
    ],
)
def test_arguments_that_the_operators_do_not_take_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(SetupError) as error:
        AscendBackend(*arguments)
    assert message in str(error.value)


@pytest.mark.parametrize("arguments", [(12, 2, 128), (16, 16, 80), (64, 1, 16), (256, 256, 240), (1, 1, 512)])
def test_arguments_at_the_limits_are_taken(arguments: tuple[int, int, int]) -> None:
    assert AscendBackend(*arguments, ms.bfloat16).dtype == ms.bfloat16


@pytest.mark.parametrize(
    ("patches", "lengths", "message"),
    [
        (8, [1, 8], "cumulative lengths start at 1: put 0 first"),
        (8, [0, 5, 5], "cumulative lengths go from 5 to 5 at image 1: every image needs a patch"),
        (8, [0, 5, 3], "cumulative lengths go from 5 to 3 at image 1: every image needs a patch"),
        (8, [0, 9], "cumulative lengths end at 9, but there are 8 patches: use a larger bucket"),
        (8, [0], "cumulative lengths are Int32 (1,); use Int32 (images + 1,)"),
        (0, [0, 1], "0 patches in one graph: Ascend attention supports 1 to 1048575; read fewer at once"),
        (1 << 20, [0, 1], "1048576 patches in one graph: Ascend attention supports 1 to 1048575; read fewer at once"),
        (2000, range(1025), "1024 images in one graph: Ascend attention supports up to 1023; read fewer at once"),
    ],
)
def test_lengths_of_images_that_do_not_fit_are_refused_on_the_host(patches: int, lengths: Any, message: str) -> None:
    with pytest.raises(SetupError) as error:
        check_lengths(patches, lengths)
    assert str(error.value) == message


def test_lengths_of_images_that_fit_are_taken() -> None:
    check_lengths(8, [0, 3, 8])
    check_lengths(1023, range(1024))
    check_lengths((1 << 20) - 1, np.array([0, 1], np.int32))


def graph(work: str, dtype: Any = ms.float16, shape: tuple[int, ...] = (1, 2, 16, 64)) -> Any:
    """The compiled graph of one kind of work; its operators are never reached here."""
    attention = AscendBackend(*ATTENTION)
    keys, values = slots(*shape, dtype=dtype)
    cell = {
        "vision": lambda: cells.Vision(attention),
        "extend": lambda: cells.Extend(attention, keys, values),
        "mask of 8": lambda: cells.Extend(attention, keys, values, new=8),
        "masked vision": lambda: cells.WithMask(attention),
        "masked": lambda: cells.WithMask(attention, keys, values),
    }[work]()
    return ms.jit(cell)


@pytest.mark.parametrize(
    ("work", "inputs", "message"),
    [
        ({"work": "vision"}, (*qkv(8), Tensor([0, 8], ms.int64)), "lengths are Int64 (2,); use Int32 (images + 1,)"),
        ({"work": "vision"}, (*qkv(8), Tensor([[0, 8]], ms.int32)), "lengths are Int32 (1, 2); use Int32 (images + 1,)"),
        (
            {"work": "vision"},
            (zeros(8, 4, 64), zeros(7, 2, 64), zeros(8, 2, 64), TWO),
            "vision: k is Float32 [7, 2, 64]; use Float32 [8, 2, 64]",
        ),
        (
            {"work": "extend"},
            (zeros(1, 8, 2, 64), zeros(1, 8, 2, 64), zeros(1, 8, 2, 64), *ONES),
            "extend: q is Float32 [1, 8, 2, 64]; use Float32 [1, 8, 4, 64]",
        ),
        (
            {"work": "extend"},
            (zeros(1, 8, 4, 64), zeros(1, 8, 2, 64), zeros(1, 8, 2, 64, dtype=ms.float16), *ONES),
            "extend: v is Float16 [1, 8, 2, 64]; use Float32 [1, 8, 2, 64]",
        ),
        ({"work": "extend"}, (*qkv(1, 17), *ONES), "17 tokens into a slot of 16: raise max_length"),
        (
            {"work": "extend", "shape": (4, 2, 16, 64)},
            (*qkv(2, 1), TWO, TWO, TWO),
            "2 segments of 1 tokens over 4 slots: Ascend attention supports one token in every slot, or one segment",
        ),
        (
            {"work": "extend", "shape": (2, 2, 16, 64)},
            (*qkv(2, 3), TWO, TWO, TWO),
            "2 segments of 3 tokens over 2 slots: Ascend attention supports one token in every slot",
        ),
        (
            {"work": "extend", "dtype": ms.float32},
            (*qkv(1, 1), *ONES),
            "extend: keys is Float32 [1, 2, 16, 64]; use Float16 [slots, 2, max_length, 64]",
        ),
        (
            {"work": "extend", "shape": (2, 4, 16, 64)},
            (*qkv(1, 8), *ONES),
            "extend: keys is Float16 [2, 4, 16, 64]; use Float16 [slots, 2, max_length, 64]",
        ),
        ({"work": "extend"}, (*qkv(1, 1), ONE, ONE, TWO), "extend: count is Int32 [2]; use Int32 [1]"),
        ({"work": "extend"}, (*qkv(1, 1), TWO, ONE, ONE), "extend: slots is Int32 [2]; use Int32 [1]"),
        (
            {"work": "extend"},
            (*qkv(1, 1), ONE, Tensor([1], ms.int64), ONE),
            "extend: cached is Int64 [1]; use Int32 [1]",
        ),
        (
            {"work": "extend", "shape": (2, 16, 64)},
            (*qkv(1, 1), *ONES),
            "KV slots of shape (2, 16, 64): use (slots, kv_heads, max_length",
        ),
        (
            {"work": "mask of 8"},
            (*qkv(1, 7), *ONES),
            "extend: mask is Bool [1, 1, 8, 16]; use Bool [1, 1, 7, 16]",
        ),
        (
            {"work": "masked vision"},
            (*qkv(8), zeros(8, 8), zeros(8, 8)),
            "vision: mask is Float32 [8, 8]; use Int64 [8]",
        ),
        (
            {"work": "masked"},
            (*qkv(1, 8), zeros(8, 16, dtype=ms.bool_), ONE),
            "extend: mask is Bool [8, 16]; use Bool [1, 1, 8, 16]",
        ),
        (
            {"work": "masked"},
            (*qkv(1, 1), zeros(1, 1, 1, 16), ONE),
            "extend: mask is Float32 [1, 1, 1, 16]; use Bool [1, 1, 1, 16]",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused_while_the_graph_compiles(work: Any, inputs: Any, message: str) -> None:
    with pytest.raises(SetupError) as error:
        graph(**work)(*inputs)
    assert message in str(error.value)


# Masks


def extend_mask(tokens: int, *lengths: list[int]) -> list[Any]:
    """Over three slots of two heads and four rows: hidden, where rows go, whose tokens they are, whether they are new."""
    tensors = (Tensor(np.array(values, np.int32)) for values in lengths)
    masks = AscendBackend(*ATTENTION).extend_mask((3, 2, 4, 64), tokens, tuple(tensors))
    return [mask.asnumpy() for mask in masks[:4]]


def test_the_mask_of_a_token_in_every_slot_hides_the_rows_behind_it() -> None:
    hidden, at, source, fresh = extend_mask(1, [0, 1, 2], [0, 2, 4], [1, 1, 0])
    assert hidden.dtype == np.bool_
    np.testing.assert_array_equal(hidden, [[[[0, 1, 1, 1]]], [[[0, 0, 0, 1]]], [[[0, 0, 0, 0]]]])
    np.testing.assert_array_equal(at, [[0, 0, 0], [0, 1, 0], [1, 0, 2], [1, 1, 2], [2, 0, 3], [2, 1, 3]])
    np.testing.assert_array_equal(source, [0, 1, 2])
    np.testing.assert_array_equal(fresh[:, 0], [1, 1, 1, 1, 0, 0])


def test_the_mask_of_a_prompt_is_causal_behind_what_is_held_and_its_padding_repeats_the_last_token() -> None:
    hidden, at, source, fresh = extend_mask(3, [2], [1], [2])
    np.testing.assert_array_equal(hidden, [[[[0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 1]]]])
    np.testing.assert_array_equal(at, [[2, 0, 1], [2, 1, 1], [2, 0, 2], [2, 1, 2], [2, 0, 2], [2, 1, 2]])
    np.testing.assert_array_equal(source, [0, 1, 1])
    assert fresh.all()


def test_one_image_a_graph_and_slots_in_order_are_asked_for() -> None:
    assert AscendBackend.packed_images == 1
    assert AscendBackend.rows_are_slots


def test_the_padding_is_an_image_of_its_own_and_never_without_keys() -> None:
    attention = AscendBackend(*ATTENTION)
    for patches, ends, of_queries, of_keys in (
        (12, [0, 5, 8], [5, 8, 12], [5, 8, 14]),
        (8, [0, 5, 8], [5, 8, 8], [5, 8, 10]),
        (8, [0, 8], [8, 8], [8, 9]),
        (12, [0, 5, 8, 8, 8], [5, 8, 8, 8, 12], [5, 8, 9, 10, 16]),  # windows, of which two are empty
        (8, [0, 8, 8, 8], [8, 8, 8, 8], [8, 9, 10, 11]),
    ):
        queries, keys = attention.vision_mask(patches, Tensor(ends, ms.int32))
        np.testing.assert_array_equal(queries.asnumpy(), of_queries)
        np.testing.assert_array_equal(keys.asnumpy(), of_keys)
