"""A checkpoint in 8 bits: what is written, and what is refused and left as it was."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.models.qwen2vl import EMBEDDED
from mindnlp_ocr.weights import convert
from mindnlp_ocr.weights.convert import quantize_folder
from mindnlp_ocr.weights.folder import INDEX
from mindnlp_ocr.weights.quantize import Quantized, dequantize
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("converted") / "int8"
    quantize_folder(EMBEDDED, target)
    return target


def test_the_folder_is_complete_and_its_index_names_every_weight(target: Path) -> None:
    assert {path.name for path in target.iterdir()} == {path.name for path in EMBEDDED.iterdir()}
    index = json.loads((target / INDEX).read_text(encoding="utf-8"))
    found = {name: path.name for path in target.glob("*.safetensors") for name in load_file(path)}
    assert index["weight_map"] == found
    size = sum(array.nbytes for path in target.glob("*.safetensors") for array in load_file(path).values())
    assert index["metadata"]["total_size"] == size
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    assert config.pop("quantization_config") == {"quant_method": "mindnlp_ocr", "bits": 8, "group_size": 128}
    assert config == json.loads((EMBEDDED / "config.json").read_text(encoding="utf-8"))
    assert (target / "tokenizer.json").read_bytes() == (EMBEDDED / "tokenizer.json").read_bytes()


def test_every_matrix_is_near_its_original_and_vectors_are_the_same(target: Path) -> None:
    for path in sorted(EMBEDDED.glob("*.safetensors")):
        original, converted = load_file(path), load_file(target / path.name)
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


def test_an_existing_folder_is_left_alone_without_force(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(SetupError, match="out exists: name another folder, or give --force"):
        quantize_folder(EMBEDDED, tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text(encoding="utf-8") == "mine"
    quantize_folder(EMBEDDED, tmp_path / "out", force=True)
    assert not (tmp_path / "out" / "mine.txt").exists()
    assert (tmp_path / "out" / "config.json").exists()


def test_what_is_in_eight_bits_already_and_the_source_itself_are_refused(target: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="int8 is in 8 bits already: use it as it is"):
        quantize_folder(target, tmp_path / "again")
    with pytest.raises(SetupError, match="is the checkpoint itself: name another folder"):
        quantize_folder(target, target, force=True)
    assert (target / "config.json").exists()


def test_a_run_that_breaks_off_leaves_no_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert, "save_file", broken)
    with pytest.raises(OSError, match="No space left"):
        quantize_folder(EMBEDDED, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_is_wrong_and_exits_2(tmp_path: Path) -> None:
    command = [sys.executable, "tools/convert.py", str(tmp_path / "none"), str(tmp_path / "out"), "--quantize", "int8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: model {tmp_path / 'none'} does not exist")
    assert done.stderr.count("\n") == 1
