"""Tests of checkpoint folders: exact weights, and errors for incomplete, damaged or inconsistent folders."""

import json
import shutil
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from mindnlp_ocr.config import ModelConfig
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.models.qwen2vl import EMBEDDED
from mindnlp_ocr.weights.folder import INDEX, SINGLE, FolderWeights
from mindnlp_ocr.weights.names import expected_shapes
from mindnlp_ocr.weights.quantize import Quantized, quantize

Weights = dict[str, NDArray[Any]]

RAW: dict[str, Any] = json.loads((EMBEDDED / "config.json").read_text(encoding="utf-8"))
# The embedded checkpoint cut to one layer and one vision block.
CONFIG = ModelConfig.from_dict({**RAW, "num_hidden_layers": 1, "vision_config": {**RAW["vision_config"], "depth": 1}})
NORM = "model.norm.weight"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture(scope="session")
def stored() -> Weights:
    """The cut checkpoint as it is stored, bfloat16, read without the code under test."""
    everything: Weights = {}
    for path in sorted(EMBEDDED.glob("*.safetensors")):
        everything |= load_file(path)
    return {name: everything[name] for name in expected_shapes(CONFIG)}


@pytest.fixture(scope="session")
def sharded(stored: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two shards; tests copy it."""
    folder = tmp_path_factory.mktemp("sharded")
    names = list(stored)
    halves = (names[: len(names) // 2], names[len(names) // 2 :])
    for shard, half in zip(SHARDS, halves, strict=True):
        save_file({name: stored[name] for name in half}, folder / shard)
    home = {name: shard for shard, half in zip(SHARDS, halves, strict=True) for name in half}
    (folder / INDEX).write_text(json.dumps({"weight_map": home}), encoding="utf-8")
    return folder


@pytest.fixture
def copy(sharded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sharded, tmp_path / "copy"))


def single(folder: Path, weights: Weights) -> Path:
    save_file(weights, folder / SINGLE)
    return folder


def read(folder: Path) -> Weights:
    weights = FolderWeights(folder, CONFIG)
    return {name: weights[name] for name in weights}


def refusal(folder: Path) -> str:
    with pytest.raises(SetupError) as error:
        FolderWeights(folder, CONFIG)
    message = str(error.value)
    assert "\n" not in message
    return message


def assert_same(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert array.dtype == ml_dtypes.bfloat16
        assert array.tobytes() == expected[name].tobytes(), name


@pytest.mark.parametrize(
    ("dtype", "bits", "values"),
    [
        # smallest subnormal, largest, -0, 1 and a third, each as its bits and as its exact value
        ("<f2", [0x0001, 0x7BFF, 0x8000, 0x3C00, 0x3555], [2.0**-24, 65504.0, -0.0, 1.0, 1365 / 4096]),
        ("bfloat16", [0x0001, 0x7F7F, 0x8000, 0x3F80, 0x3EAB], [2.0**-133, 255 * 2.0**120, -0.0, 1.0, 171 / 512]),
        ("<f4", [1, 0x7F7FFFFF, 0x80000000, 0x3F800000], [2.0**-149, float(np.finfo(np.float32).max), -0.0, 1.0]),
    ],
)
def test_stored_float16_bfloat16_and_float32_are_read_to_the_last_bit(
    stored: Weights, tmp_path: Path, dtype: str, bits: list[int], values: list[float]
) -> None:
    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    norm = np.zeros(CONFIG.hidden_size, f"<u{kind.itemsize}")
    norm[: len(bits)] = bits
    weights = FolderWeights(single(tmp_path, {**stored, NORM: norm.view(kind)}), CONFIG)
    found = weights[NORM]
    assert isinstance(found, np.ndarray)
    assert found.dtype == kind
    assert found[: len(values)].astype(np.float32).tobytes() == struct.pack(f"<{len(values)}f", *values)


def test_the_prefixes_of_transformers_4_52_are_read_as_the_published_names(stored: Weights, tmp_path: Path) -> None:
    def renamed(name: str) -> str:
        if name.startswith("visual."):
            return f"model.{name}"
        return name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name

    newer = {renamed(name): array for name, array in stored.items()}
    assert {name.split(".")[1] for name in newer} == {"visual", "language_model"}
    assert_same(read(single(tmp_path, newer)), stored)


def test_a_weight_that_nobody_asks_for_does_not_matter(stored: Weights, tmp_path: Path) -> None:
    extra = {**stored, "model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(3, np.float32)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights = FolderWeights(single(tmp_path, extra), CONFIG)
    assert stored.keys() <= set(weights)


def test_weights_that_the_network_does_not_have_are_warned_of_with_the_nearest_that_it_has(
    stored: Weights, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    lora = "model.layers.0.self_attn.q_proj.lora_A.weight"
    FolderWeights(single(tmp_path, {**stored, lora: np.zeros((2, 384), np.float32)}), CONFIG)
    assert [str(warning.message) for warning in recwarn] == [
        f"{tmp_path} contains weights that this network does not have: {lora} "
        "(the nearest that it has is model.layers.0.self_attn.q_proj.weight)"
    ]


def test_an_untied_head_is_asked_for_and_a_tied_one_is_not(stored: Weights, tmp_path: Path) -> None:
    untied = CONFIG.model_copy(update={"tie_word_embeddings": False})
    folder = single(tmp_path, stored)
    FolderWeights(folder, CONFIG)
    with pytest.raises(SetupError, match=r"lm_head\.weight is missing"):
        FolderWeights(folder, untied)


# Weights that do not fit


def test_a_missing_weight_is_named(stored: Weights, tmp_path: Path) -> None:
    folder = single(tmp_path, {name: array for name, array in stored.items() if name != NORM})
    assert refusal(folder) == f"{folder}: the weights do not match config.json: {NORM} is missing"


def test_many_missing_weights_are_counted_not_listed(stored: Weights, tmp_path: Path) -> None:
    message = refusal(single(tmp_path, {NORM: stored[NORM]}))
    assert message.count(" is missing") == 5
    assert message.endswith(f"; and {len(stored) - 1 - 5} more")


@pytest.mark.parametrize("misspelt", ["model.norm.wieght", "model.norms.weight", "transformer.norm.weight"])
def test_a_misspelt_weight_is_suggested_for_the_one_that_is_missing(stored: Weights, tmp_path: Path, misspelt: str) -> None:
    weights = {(misspelt if name == NORM else name): array for name, array in stored.items()}
    expected = f"{NORM} is missing (did {misspelt} mean it?)"
    assert refusal(single(tmp_path, weights)).endswith(f": {expected}")


@pytest.mark.parametrize("shape", [(383,), (1, 384), (384, 1), (0,)])
def test_a_wrong_shape_is_named_with_the_right_one(stored: Weights, tmp_path: Path, shape: tuple[int, ...]) -> None:
    message = refusal(single(tmp_path, {**stored, NORM: np.zeros(shape, np.float32)}))
    assert message.endswith(f": {NORM} has the shape {shape}, but config.json implies (384,)")


@pytest.mark.parametrize(
    ("dtype", "shown"), [("int32", "I32"), ("int8", "I8"), ("uint8", "U8"), ("bool", "BOOL"), ("float64", "F64")]
)
def test_a_dtype_that_is_not_read_is_named_with_those_that_are(
    stored: Weights, tmp_path: Path, dtype: str, shown: str
) -> None:
    message = refusal(single(tmp_path, {**stored, NORM: np.zeros(384, dtype)}))
    assert message.endswith(f": {NORM} is stored as {shown}, not one of BF16, F16, F32")


# Files that are missing, damaged or lie


def test_a_folder_without_weights_names_the_two_files_it_could_hold(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path} contains neither {SINGLE} nor {INDEX}: pass a complete Qwen2-VL folder"


def test_a_missing_shard_is_named(copy: Path) -> None:
    (copy / SHARDS[1]).unlink()
    assert refusal(copy) == f"{copy / SHARDS[1]} is missing: copy the whole checkpoint again"


def test_a_link_to_a_shard_that_is_gone_is_a_missing_shard(copy: Path) -> None:
    (copy / SHARDS[1]).unlink()
    (copy / SHARDS[1]).symlink_to(copy / "gone")
    assert refusal(copy) == f"{copy / SHARDS[1]} is missing: copy the whole checkpoint again"


@pytest.mark.parametrize(
    "cut", [lambda n: 0, lambda n: 4, lambda n: 8, lambda n: 100, lambda n: n // 2, lambda n: n - 1], ids=range(6)
)
def test_a_truncated_shard_is_named_wherever_it_ends(copy: Path, cut: Callable[[int], int]) -> None:
    path = copy / SHARDS[0]
    whole = path.read_bytes()
    path.write_bytes(whole[: cut(len(whole))])
    message = refusal(copy)
    assert message.startswith(f"{path} is truncated or not safetensors (")
    assert message.endswith("): copy it again")


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """The same bytes of data under another header."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    change(header)
    new = json.dumps(header).encode()
    new += b" " * (-len(new) % 8)
    path.write_bytes(struct.pack("<Q", len(new)) + new + content[8 + size :])


def first(header: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = min((e for name, e in header.items() if name != "__metadata__"), key=lambda e: e["data_offsets"])
    return entry


@pytest.mark.parametrize(
    "lie",
    [
        lambda header: first(header).update(shape=[10**6, 10**6]),
        lambda header: first(header).update(shape=[2**62, 2**62]),
        lambda header: first(header).update(dtype="F32"),
        lambda header: first(header).update(dtype="F999"),
        lambda header: first(header).update(data_offsets=[0, 2**63]),
        lambda header: first(header).update(data_offsets=[100, 0]),
        lambda header: first(header).update(data_offsets=[-8, 0]),
        lambda header: first(header).pop("data_offsets"),
        lambda header: header.popitem(),
    ],
    ids=range(9),
)
def test_a_header_that_lies_about_its_data_is_refused(copy: Path, lie: Callable[[dict[str, Any]], object]) -> None:
    path = copy / SHARDS[0]
    rewritten(path, lambda header: None)
    read(copy)  # the rewriting itself does no harm
    rewritten(path, lie)
    message = refusal(copy)
    assert message.startswith(f"{path} is truncated or not safetensors (")
    assert message.endswith("): copy it again")


@pytest.mark.parametrize(
    "head", [struct.pack("<Q", 2**63), struct.pack("<Q", 10**9), b"\xff" * 8, b"PK\x03\x04" + b"\x00" * 4]
)
def test_a_length_of_the_header_that_cannot_be_is_refused(copy: Path, head: bytes) -> None:
    path = copy / SHARDS[0]
    path.write_bytes(head + path.read_bytes()[8:])
    assert refusal(copy).startswith(f"{path} is truncated or not safetensors (")


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "a/b.safetensors", "/x.safetensors", "..", ".", "", "a/../../x", "sub/../x.safetensors"]
)
def test_an_index_that_leads_out_of_its_folder_is_refused_before_anything_is_opened(copy: Path, name: str) -> None:
    shutil.copy(copy / SHARDS[0], copy.parent / "x.safetensors")
    (copy / INDEX).write_text(json.dumps({"weight_map": {NORM: name}}), encoding="utf-8")
    message = refusal(copy)
    assert message == f"{copy / INDEX} names {name!r}, a file outside its folder: do not trust this checkpoint"


def test_a_zero_byte_in_the_name_of_a_shard_is_refused(copy: Path) -> None:
    (copy / INDEX).write_text(json.dumps({"weight_map": {NORM: "x\0.safetensors"}}), encoding="utf-8")
    refusal(copy)


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": []}, {"weight_map": None}, {"weight_map": "x"}])
def test_an_index_without_a_map_is_to_be_copied_again(copy: Path, index: dict[str, Any]) -> None:
    (copy / INDEX).write_text(json.dumps(index), encoding="utf-8")
    assert refusal(copy) == f"{copy / INDEX} has no weight_map: copy it again"


def test_an_index_that_is_not_json_is_named(copy: Path) -> None:
    (copy / INDEX).write_text('{"weight_map": {', encoding="utf-8")
    message = refusal(copy)
    assert message.startswith(f"{copy / INDEX} cannot be read as JSON (")
    assert message.endswith("): copy it again")


def test_a_shard_that_the_index_forgot_leaves_its_weights_missing(copy: Path) -> None:
    weight_map = json.loads((copy / INDEX).read_text(encoding="utf-8"))["weight_map"]
    kept = {name: shard for name, shard in weight_map.items() if shard == SHARDS[0]}
    (copy / INDEX).write_text(json.dumps({"weight_map": kept}), encoding="utf-8")
    message = refusal(copy)
    assert " is missing" in message
    assert message.endswith(f"; and {len(weight_map) - len(kept) - 5} more")


# 8 bits


def eight_bit(weights: Weights) -> Weights:
    """Store weights in the format of tools/convert.py."""
    converted: Weights = {}
    for name, array in weights.items():
        if array.ndim == 1:
            converted[name] = array
            continue
        q, scales = quantize(array.reshape(len(array), -1).astype(np.float32))
        converted |= {name: q.reshape(array.shape), f"{name}_scale": scales}
    return converted


def test_eight_bit_weights_are_read_with_their_scales(stored: Weights, tmp_path: Path) -> None:
    converted = eight_bit(stored)
    weights = FolderWeights(single(tmp_path, converted), CONFIG)
    assert weights.dtype == "int8"
    for name in stored:
        found = weights[name]
        if isinstance(found, Quantized):
            assert found.q.tobytes() == converted[name].tobytes()
            assert found.q.ndim == 2
            np.testing.assert_array_equal(found.scales, converted[f"{name}_scale"])
        else:
            assert stored[name].ndim == 1


HEAD = "model.embed_tokens.weight"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({f"{HEAD}_scale": None}, f"{HEAD} is stored as I8, and {HEAD}_scale is missing"),
        ({f"{HEAD}_scale": np.ones((8192, 2), np.float32)}, f"{HEAD}_scale is F32 (8192, 2), not F32 (8192, 3)"),
        ({f"{HEAD}_scale": np.ones((8192, 3), np.float16)}, f"{HEAD}_scale is F16 (8192, 3), not F32 (8192, 3)"),
        ({NORM: np.ones(384, np.int8)}, f"{NORM} is stored as I8, not one of BF16, F16, F32"),
    ],
)
def test_eight_bit_weights_that_lack_something_are_refused(
    stored: Weights, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    converted = {name: array for name, array in (eight_bit(stored) | changes).items() if array is not None}
    assert words in refusal(single(tmp_path, converted))


def test_a_folder_of_several_dtypes_is_held_in_float32(stored: Weights, tmp_path: Path) -> None:
    weights = FolderWeights(single(tmp_path, {**stored, HEAD: stored[HEAD].astype(np.float16)}), CONFIG)
    assert weights.dtype == "fp32"
