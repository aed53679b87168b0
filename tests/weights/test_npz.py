"""Tests of merged .npz files: exact weights, no code execution, and errors for damaged or inconsistent files."""

import io
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.models.qwen2vl import EMBEDDED, Qwen2VLModel
from mindnlp_ocr.weights.npz import NpzCheckpoint
from tests.conftest import case
from tests.weights.test_folder import CONFIG, NORM, Weights, stored

__all__ = ["stored"]  # the fixture


def raw(array: Any) -> Any:
    return array.view("V2") if array.dtype == ml_dtypes.bfloat16 else array


def saved(path: Path, weights: Weights, compress: bool = False) -> Path:
    (np.savez_compressed if compress else np.savez)(path, **{name: raw(array) for name, array in weights.items()})
    return path


def refusal(path: Path) -> str:
    with pytest.raises(SetupError) as error, NpzCheckpoint(path).weights(CONFIG) as weights:
        for name in weights:
            weights[name]
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("compress", [False, True])
def test_bfloat16_float16_and_float32_are_read_to_the_last_bit(stored: Weights, tmp_path: Path, compress: bool) -> None:
    kinds = [ml_dtypes.bfloat16, np.float16, np.float32]
    weights = {name: array.astype(kinds[i % 3]) for i, (name, array) in enumerate(stored.items())}
    with NpzCheckpoint(saved(tmp_path / "x.npz", weights, compress)).weights(CONFIG) as found:
        assert found.dtype == "fp32"
        assert set(found) == set(weights)
        for name, array in weights.items():
            read = found[name]
            assert isinstance(read, np.ndarray)
            assert (read.dtype, read.tobytes()) == (array.dtype, array.tobytes())


def test_names_of_transformers_4_52_and_columns_first_are_read_too(stored: Weights, tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    weights = {f"model.language_model.{key[6:]}" if key.startswith("model.") else key: a for key, a in stored.items()}
    weights["model.language_model.layers.0.mlp.up_proj.weight"] = np.asfortranarray(stored[name].astype(np.float32))
    with NpzCheckpoint(saved(tmp_path / "x.npz", weights)).weights(CONFIG) as found:
        np.testing.assert_array_equal(found[name], stored[name].astype(np.float32))


def test_a_merged_file_without_a_configuration_takes_the_one_beside_it(tmp_path: Path) -> None:
    everything: Weights = {}
    from safetensors.numpy import load_file

    for path in EMBEDDED.glob("*.safetensors"):
        everything |= load_file(path)
    saved(tmp_path / "x.npz", everything)
    with pytest.raises(SetupError, match=r"x\.npz contains no config\.json, and there is none next to it"):
        Qwen2VLModel(tmp_path / "x.npz")
    for path in EMBEDDED.glob("*.json"):
        shutil.copy(path, tmp_path)
    golden = case("word_56x56")
    model = Qwen2VLModel(tmp_path / "x.npz")
    assert model.generate(golden["messages"]).token_ids == golden["token_ids"]
    assert model.get_model_info()["model_name"] == "x.npz"


# What may run code


class Trap:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("sprung"),)


def test_objects_are_named_and_never_unpickled(stored: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trap = np.empty(384, object)
    trap[0] = Trap()
    np.savez(tmp_path / "x.npz", **{**{name: raw(array) for name, array in stored.items()}, NORM: trap}, allow_pickle=True)
    message = refusal(tmp_path / "x.npz")
    assert (
        message
        == f"{tmp_path / 'x.npz'}: {NORM}.npy contains Python objects, a pickle that may run code: do not trust this file"
    )
    assert not (tmp_path / "sprung").exists()


def test_a_pickle_by_the_name_of_npz_is_no_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.npz").write_bytes(pickle.dumps(Trap()))
    assert "x.npz is truncated or not an .npz archive (File is not a zip file): copy it again" in refusal(tmp_path / "x.npz")
    assert not (tmp_path / "sprung").exists()


# What is damaged, or lies


def rewritten(path: Path, target: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """Replace members of the archive, with valid checksums."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target


def header(shape: tuple[int, ...], dtype: str) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": dtype})
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda old: old[:40], "model.norm.weight.npy is damaged or not an array ("),
        (lambda old: b"", "model.norm.weight.npy is damaged or not an array ("),
        (lambda old: old[:-10], "model.norm.weight.npy is damaged or not an array ("),
        (lambda old: b"\x93NUMPY\x09\x00" + old[8:], "is damaged or not an array (format version (9, 0)"),
        (lambda old: header((384,), "<f4"), "model.norm.weight.npy is damaged or not an array ("),
        (
            lambda old: header((10**15,), "<f4"),
            "model.norm.weight has the shape (1000000000000000,), but config.json implies (384,)",
        ),
        (lambda old: header((384,), ">f4"), "model.norm.weight is stored as >f4, not one of BF16, F16, F32"),
        (lambda old: header((384,), "<f8"), "model.norm.weight is stored as <f8, not one of BF16, F16, F32"),
        (lambda old: header((384,), "<i4"), "model.norm.weight is stored as <i4, not one of BF16, F16, F32"),
    ],
    ids=range(9),
)
def test_an_array_that_is_cut_off_or_lies_is_named(
    stored: Weights, tmp_path: Path, content: Callable[[bytes], bytes], words: str
) -> None:
    path = saved(tmp_path / "whole.npz", stored)
    member = f"{NORM}.npy"
    changed = rewritten(path, tmp_path / "x.npz", lambda name, old: content(old) if name == member else old)
    assert words in refusal(changed)


def test_a_flipped_bit_is_found_when_the_weight_is_read(stored: Weights, tmp_path: Path) -> None:
    path = saved(tmp_path / "x.npz", stored)
    content = bytearray(path.read_bytes())
    content[content.index(stored[NORM].tobytes()) + 100] ^= 1
    path.write_bytes(content)
    assert f"{NORM}.npy is damaged or not an array (Bad CRC-32 for file '{NORM}.npy'): copy the file again" in refusal(path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_archive_is_refused(stored: Weights, tmp_path: Path, share: float) -> None:
    path = saved(tmp_path / "x.npz", stored)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert refusal(path).startswith(f"{path} is truncated or not an .npz archive (")


@pytest.mark.parametrize("name", ["../config.json", "/config.json", "a/config.json", "run.sh", "..", "config.json.exe"])
def test_a_member_that_leads_elsewhere_or_is_no_text_is_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr(name, "{}")
        archive.writestr("config.json", "{}")
    with pytest.raises(SetupError, match="do not trust it") as error, NpzCheckpoint(tmp_path / "x.npz").files():
        pass
    assert repr(name) in str(error.value)


def test_a_text_that_would_unpack_to_a_bomb_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", " " * (65 << 20))
    with (
        pytest.raises(SetupError, match=r"'config.json' \(68157440 bytes\).*do not trust it"),
        NpzCheckpoint(tmp_path / "x.npz").files(),
    ):
        pass


def test_missing_and_misspelt_weights_are_named_as_in_a_folder(stored: Weights, tmp_path: Path) -> None:
    weights = {("model.norms.weight" if name == NORM else name): array for name, array in stored.items()}
    path = saved(tmp_path / "x.npz", weights)
    expected = f"{path}: the weights do not match config.json: {NORM} is missing (did model.norms.weight mean it?)"
    assert refusal(path) == expected
