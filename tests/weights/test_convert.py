"""Tests of the conversion of checkpoints: output, continuation after an interruption, and errors."""

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.models.qwen2vl import EMBEDDED
from mindnlp_ocr.weights import convert as module
from mindnlp_ocr.weights.checkpoint import open_checkpoint
from mindnlp_ocr.weights.convert import convert
from mindnlp_ocr.weights.folder import INDEX, FolderCheckpoint
from mindnlp_ocr.weights.quantize import Quantized, dequantize
from tests.conftest import ROOT

Weights = dict[str, NDArray[Any]]
SOURCE = FolderCheckpoint(EMBEDDED)
TEXTS = {path.name for path in EMBEDDED.iterdir() if path.suffix in (".json", ".txt") and path.name != INDEX}


def stored(folder: Path) -> Weights:
    """All weights of a folder, read without the code under test."""
    found: Weights = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def in_npz(path: Path) -> Weights:
    """All weights of a merged file, read by NumPy alone, bfloat16 as raw bytes."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files if not name.endswith((".json", ".txt"))}


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("converted") / "merged.npz"
    convert(SOURCE, target)
    return target


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("converted") / "int8"
    convert(SOURCE, target, "int8")
    return target


def test_a_merged_file_holds_every_weight_to_the_bit_and_all_files_that_reading_needs(merged: Path) -> None:
    original, found = stored(EMBEDDED), in_npz(merged)
    assert {name: array.tobytes() for name, array in found.items()} == {n: array.tobytes() for n, array in original.items()}
    assert {array.dtype.str for array in found.values()} == {"|V2"}
    with zipfile.ZipFile(merged) as archive:
        assert {name for name in archive.namelist() if not name.endswith(".npy")} == TEXTS
        assert archive.read("tokenizer.json") == (EMBEDDED / "tokenizer.json").read_bytes()
        assert json.loads(archive.read("config.json")) == json.loads((EMBEDDED / "config.json").read_text(encoding="utf-8"))


def test_there_and_back_gives_the_weights_and_files_of_the_original(merged: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(merged), tmp_path / "back")
    original, found = stored(EMBEDDED), stored(tmp_path / "back")
    assert {name: array.tobytes() for name, array in found.items()} == {n: array.tobytes() for n, array in original.items()}
    assert {path.name for path in (tmp_path / "back").iterdir()} == TEXTS | {"model.safetensors", "SHA256SUMS"}


def test_the_same_conversion_gives_the_same_bytes(merged: Path, tmp_path: Path) -> None:
    convert(SOURCE, tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == merged.read_bytes()


def test_the_sums_are_those_of_the_files(merged: Path, int8: Path) -> None:
    beside = merged.with_name("merged.npz.sha256").read_text(encoding="utf-8")
    assert beside == f"{hashlib.sha256(merged.read_bytes()).hexdigest()}  merged.npz\n"
    lines = (int8 / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    files = {path.name: path.read_bytes() for path in int8.iterdir() if path.name != "SHA256SUMS"}
    assert sums == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def test_several_shards_have_an_index_that_names_every_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_BYTES", 30 << 20)
    convert(SOURCE, tmp_path / "shards", "int8")
    index = json.loads((tmp_path / "shards" / INDEX).read_text(encoding="utf-8"))
    files = sorted((tmp_path / "shards").glob("*.safetensors"))
    assert len(files) > 2
    assert [path.name for path in files] == [f"model-{i + 1:05}-of-{len(files):05}.safetensors" for i in range(len(files))]
    assert index["weight_map"] == {name: path.name for path in files for name in load_file(path)}
    with open_checkpoint(tmp_path / "shards").weights(SOURCE.config(EMBEDDED)) as weights:
        assert weights.dtype == "int8"


def test_in_eight_bits_every_matrix_is_near_its_original_and_vectors_are_the_same(int8: Path) -> None:
    original, converted = stored(EMBEDDED), stored(int8)
    for name, array in original.items():
        if array.ndim == 1:
            assert converted[name].tobytes() == array.tobytes()
            continue
        assert converted[name].dtype == np.int8
        assert converted[name].shape == array.shape
        scales = converted[f"{name}_scale"]
        again = dequantize(Quantized(converted[name].reshape(len(array), -1), scales))
        away = np.abs(again - array.reshape(len(array), -1).astype(np.float32))
        steps = np.repeat(scales, 128, axis=1)[:, : away.shape[1]]
        assert (away <= steps * 0.5001).all(), name
    config = json.loads((int8 / "config.json").read_text(encoding="utf-8"))
    assert config.pop("quantization_config") == {"quant_method": "mindnlp_ocr", "bits": 8, "group_size": 128}
    assert config == json.loads((EMBEDDED / "config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("dtype", "kind", "written"),
    [("fp32", np.float32, "float32"), ("fp16", np.float16, "float16"), ("bf16", ml_dtypes.bfloat16, "bfloat16")],
)
def test_another_dtype_is_the_nearest_of_it_and_named_in_the_configuration(
    tmp_path: Path, dtype: Any, kind: Any, written: str
) -> None:
    convert(SOURCE, tmp_path / "out", dtype)
    found = stored(tmp_path / "out")
    for name, array in stored(EMBEDDED).items():
        assert found[name].tobytes() == array.astype(np.float32).astype(kind).tobytes()
    assert json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["torch_dtype"] == written


# Breaking off


@pytest.mark.parametrize("name", ["out", "out.npz"])
def test_a_run_that_breaks_off_leaves_no_target_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(module, "SHARD_BYTES", 10 << 20)
    target, whole, made = tmp_path / name, tmp_path / f"whole_{name}", module._tensors
    convert(SOURCE, whole)
    asked: list[str] = []

    def counted(weights: Any, weight: str, *rest: Any) -> Any:
        asked.append(weight)
        if len(asked) == 100:
            raise OSError(28, "No space left on device")
        return made(weights, weight, *rest)

    monkeypatch.setattr(module, "_tensors", counted)
    with pytest.raises(OSError, match="No space left"):
        convert(SOURCE, target)
    assert not target.exists()
    first = list(asked)
    convert(SOURCE, target)
    again = asked[len(first) :]
    assert len(again) < len(set(first) | set(again))
    assert not tmp_path.joinpath(f"{name}.part").exists()
    if target.is_dir():
        assert {p.name: p.read_bytes() for p in target.iterdir()} == {p.name: p.read_bytes() for p in whole.iterdir()}
    else:
        assert target.read_bytes() == whole.read_bytes()


def test_what_another_conversion_left_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(module, "sha256", broken)
        with pytest.raises(OSError, match="No space left"):
            convert(SOURCE, tmp_path / "out", "fp32")
    assert (tmp_path / "out.part" / "model.safetensors").exists()
    convert(SOURCE, tmp_path / "out")
    assert {array.dtype.name for array in stored(tmp_path / "out").values()} == {"bfloat16"}


# What is refused


@pytest.mark.parametrize("name", ["out", "out.npz"])
def test_an_existing_checkpoint_is_left_alone_without_force(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    convert(SOURCE, target, "int8")
    with pytest.raises(SetupError, match=f"{name} exists: name another target, or add --force"):
        convert(SOURCE, target)
    with open_checkpoint(target).weights(SOURCE.config(EMBEDDED)) as weights:
        assert weights.dtype == "int8"
    convert(SOURCE, target, force=True)
    with open_checkpoint(target).weights(SOURCE.config(EMBEDDED)) as weights:
        assert weights.dtype == "bf16"


def test_a_folder_that_holds_no_checkpoint_is_not_replaced_even_by_force(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(SetupError, match="is a folder without a checkpoint, which is not replaced: name another target"):
        convert(SOURCE, tmp_path, force=True)
    assert (tmp_path / "mine.txt").read_text(encoding="utf-8") == "mine"


def test_what_is_in_eight_bits_already_and_the_source_itself_are_refused(int8: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="int8 is already in 8 bits: use it as it is"):
        convert(open_checkpoint(int8), tmp_path / "again", "int8")
    with pytest.raises(SetupError, match="is the checkpoint itself: name another target"):
        convert(open_checkpoint(int8), int8, force=True)
    assert (int8 / "config.json").exists()


def test_the_command_says_what_is_wrong_and_exits_2(tmp_path: Path) -> None:
    command = [sys.executable, "tools/convert.py", str(tmp_path / "none"), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: model {tmp_path / 'none'} does not exist")
    assert done.stderr.count("\n") == 1
