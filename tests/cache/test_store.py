"""Tests of prefixes on disk: they are read bit for bit, or skipped with a reason."""

import json
import os
import pickle
import struct
import warnings
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from mindnlp_ocr.cache import store
from mindnlp_ocr.cache.keys import ImageSpan, PrefixKey
from mindnlp_ocr.cache.store import StoredPrefix, load_prefixes, save_prefix
from mindnlp_ocr.errors import SetupError

SLOT_SHAPE = (2, 1, 16, 4)  # layers, kv_heads, max_length, head_dim
FLOAT32, FLOAT16, BFLOAT16 = (np.dtype(dtype) for dtype in (np.float32, np.float16, ml_dtypes.bfloat16))


def stored(tokens: int = 5, dtype: Any = FLOAT32, first: int = 1, base: str = "base", layers: int = 2) -> StoredPrefix:
    """Create a prefix of random bits, including NaNs; the second and third tokens are an image."""
    rng = np.random.default_rng(tokens)
    images = (ImageSpan(1, 2, bytes(range(32))),) if tokens > 2 else ()
    shape = (layers, 1, tokens, 4)
    keys, values = (np.frombuffer(rng.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape) for _ in range(2))
    return StoredPrefix(PrefixKey(base, np.arange(first, first + tokens), images), keys, values)


def load(folder: Path, dtype: Any = FLOAT32) -> list[StoredPrefix]:
    """Load prefixes, and fail on any warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return list(load_prefixes(folder, "base", SLOT_SHAPE, dtype))


def ignored(path: Path) -> str:
    """Return the warning about the only file in its folder."""
    with pytest.warns(RuntimeWarning) as caught:
        assert list(load_prefixes(path.parent, "base", SLOT_SHAPE, FLOAT32)) == []
    assert len(caught) == 1
    message = str(caught[0].message)
    assert message.startswith(f"{path} ")
    assert message.endswith(": ignored")
    return message


def assert_same(found: StoredPrefix, wanted: StoredPrefix) -> None:
    assert found.key.digest() == wanted.key.digest()
    assert found.key.images == wanted.key.images
    assert found.key.token_ids.tolist() == wanted.key.token_ids.tolist()
    for one, other in ((found.keys, wanted.keys), (found.values, wanted.values)):
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


# There and back


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT16, BFLOAT16], ids=str)
@pytest.mark.parametrize("tokens", [1, 5, 16])
def test_a_prefix_comes_back_bit_for_bit(tmp_path: Path, dtype: Any, tokens: int) -> None:
    entry = stored(tokens, dtype)
    path = save_prefix(tmp_path / "new" / "folder", entry)
    assert path == tmp_path / "new" / "folder" / f"{entry.key.digest().hex()}.safetensors"
    assert list(path.parent.iterdir()) == [path]
    (found,) = load(path.parent, dtype)
    assert_same(found, entry)


def test_arrays_that_are_cut_out_of_a_slot_are_stored_as_they_look(tmp_path: Path) -> None:
    slot = np.arange(2 * 1 * 16 * 4, dtype=np.float32).reshape(SLOT_SHAPE)
    entry = StoredPrefix(PrefixKey("base", np.arange(3)), slot[:, :, :3], slot[:, :, 5:8])
    save_prefix(tmp_path, entry)
    assert_same(load(tmp_path)[0], entry)


def test_prefixes_are_read_in_the_order_in_which_they_were_saved(tmp_path: Path) -> None:
    for first in (5, 3, 9, 1, 7, 3):
        save_prefix(tmp_path, stored(first=first))
    assert [int(entry.key.token_ids[0]) for entry in load(tmp_path)] == [5, 9, 1, 7, 3]


def test_a_missing_folder_contains_no_prefixes(tmp_path: Path) -> None:
    assert load(tmp_path / "missing") == []


@pytest.mark.parametrize(
    ("keys", "values", "message"),
    [
        (np.zeros((2, 1, 4, 4), "f4"), np.zeros((2, 1, 4, 4), "f4"), r"use \[layers, kv_heads, 5 tokens, head_dim\]"),
        (np.zeros((2, 5, 4), "f4"), np.zeros((2, 5, 4), "f4"), r"keys are \(2, 5, 4\): use \[layers"),
        (
            np.zeros((2, 1, 5, 4), "f4"),
            np.zeros((2, 1, 5, 4), "f2"),
            "keys are float32 .* but values are float16 .*: use the same for both",
        ),
        (np.zeros((2, 1, 5, 4), "f4"), np.zeros((2, 1, 5, 8), "f4"), "use the same for both"),
        (np.zeros((2, 1, 5, 4), "f8"), np.zeros((2, 1, 5, 4), "f8"), "keys are float64: use float32, float16 or bfloat16"),
    ],
)
def test_arrays_that_do_not_fit_their_key_are_refused(keys: Any, values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StoredPrefix(stored().key, keys, values)


# Files that do not fit


def test_a_file_of_another_base_is_ignored_with_both_names(tmp_path: Path) -> None:
    message = ignored(save_prefix(tmp_path, stored(base="other")))
    assert message.endswith(" belongs to another checkpoint, dtype or adapter ('other', but this is 'base'): ignored")


def test_a_file_of_another_version_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store, "VERSION", "2")
        path = save_prefix(tmp_path, stored())
    assert ignored(path).endswith(" has format version '2', but this release reads '1': ignored")


def test_a_file_of_another_dtype_is_ignored(tmp_path: Path) -> None:
    assert ignored(save_prefix(tmp_path, stored(dtype=BFLOAT16))).endswith(
        "contains bfloat16, but the slots are float32: ignored"
    )


@pytest.mark.parametrize("entry", [stored(17), stored(layers=3)], ids=["too long", "too deep"])
def test_a_file_that_does_not_fit_a_slot_is_ignored(tmp_path: Path, entry: StoredPrefix) -> None:
    message = ignored(save_prefix(tmp_path, entry))
    assert message.endswith(f" contains keys of shape {list(entry.keys.shape)}, but a slot has [2, 1, 16, 4]: ignored")


@pytest.mark.parametrize(
    "change",
    [
        {"keys": np.zeros((2, 1, 4, 4), np.float32), "values": np.zeros((2, 1, 4, 4), np.float32)},  # of 5 tokens
        {"values": np.zeros((2, 1, 5, 4), np.float16)},
        {"values": np.zeros((2, 1, 6, 4), np.float32)},
        {"token_ids": np.arange(5, dtype=np.int64)},
        {"token_ids": np.zeros((5, 1), np.int32)},
        {"more": np.zeros(3, np.float32)},
        {"values": None},
    ],
    ids=range(7),
)
def test_a_file_with_a_true_checksum_over_tensors_that_do_not_belong_together_is_ignored(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    entry = stored()
    tensors = {"token_ids": entry.key.token_ids, "keys": entry.keys, "values": entry.values, **change}
    metadata = {"format": store.FORMAT, "version": store.VERSION, "base": "base", "images": "[]"}
    tensors = {name: array for name, array in tensors.items() if array is not None}
    if "values" in tensors:
        metadata["sha256"] = store._checksum(metadata, tensors)
    save_file(tensors, tmp_path / "x.safetensors", metadata)
    assert " is damaged or not a cached prefix (" in ignored(tmp_path / "x.safetensors")


@pytest.mark.parametrize("images", ["", "{}x", "[[1, 2]]", "[[4, 9, '']]", '[[1, 2, "zz"]]', '[[4, 9, "00"]]', "[" * 100000])
def test_a_file_with_invalid_images_is_ignored(tmp_path: Path, images: str) -> None:
    entry = stored()
    tensors = {"token_ids": entry.key.token_ids, "keys": entry.keys, "values": entry.values}
    metadata = {"format": store.FORMAT, "version": store.VERSION, "base": "base", "images": images}
    metadata["sha256"] = store._checksum(metadata, tensors)
    save_file(tensors, tmp_path / "x.safetensors", metadata)
    assert " is damaged or not a cached prefix (" in ignored(tmp_path / "x.safetensors")


class _Bomb:
    def __reduce__(self) -> Any:
        return (os.abort, ())  # the end of this process, if anything unpickles it


def test_files_other_than_safetensors_are_ignored_and_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for write in (
        lambda: path.write_bytes(pickle.dumps(_Bomb())),
        lambda: np.savez(path.open("wb"), keys=np.zeros(3), object=np.array([_Bomb()], object)),
        lambda: path.write_bytes(b""),
        lambda: path.write_text("{}"),
        lambda: path.write_bytes(b"\xff" * 64),
        lambda: save_file({"model.norm.weight": np.zeros(3, np.float32)}, path, {"format": "pt"}),
        lambda: save_file({"model.norm.weight": np.zeros(3, np.float32)}, path),
    ):
        write()
        assert " is damaged or not a cached prefix (" in ignored(path)
    path.unlink()
    path.mkdir()
    assert " is damaged or not a cached prefix (" in ignored(path)


def test_a_link_that_leads_nowhere_is_as_good_as_no_file(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").symlink_to(tmp_path / "missing")
    assert load(tmp_path) == []


# Damage


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return save_prefix(tmp_path / "small", stored(3))


def test_a_file_that_ends_early_is_ignored_wherever_it_ends(small: Path) -> None:
    whole = small.read_bytes()
    for length in range(len(whole)):
        small.write_bytes(whole[:length])
        assert " is damaged or not a cached prefix (" in ignored(small)
    small.write_bytes(whole)
    assert len(load(small.parent)) == 1


@pytest.mark.parametrize("flip", [0x01, 0x02, 0x20, 0x29, 0x2A, 0x2D, 0x80, 0xFF])  # 0x2A: a space becomes a line feed
def test_a_file_with_one_changed_byte_is_ignored_wherever_it_is(small: Path, flip: int) -> None:
    whole = small.read_bytes()
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= flip
        small.write_bytes(changed)
        ignored(small)


def test_a_file_with_bytes_behind_its_end_is_ignored(small: Path) -> None:
    small.write_bytes(small.read_bytes() + b"\0")
    ignored(small)


def test_a_damaged_file_does_not_keep_the_others_from_being_read(tmp_path: Path) -> None:
    paths = [save_prefix(tmp_path, stored(first=first)) for first in (1, 2, 3)]
    paths[1].write_bytes(paths[1].read_bytes()[:-1])
    with pytest.warns(RuntimeWarning, match=paths[1].name) as caught:
        found = list(load_prefixes(tmp_path, "base", SLOT_SHAPE, FLOAT32))
    assert [int(entry.key.token_ids[0]) for entry in found] == [1, 3]
    assert len(caught) == 1


def test_a_header_that_names_another_length_of_the_file_is_ignored(small: Path) -> None:
    content = small.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    for claimed in (0, 1, size - 1, size + 1, 2**40, 2**63, 2**64 - 1):
        small.write_bytes(struct.pack("<Q", claimed) + content[8:])
        ignored(small)
    header["keys"]["shape"] = [2**31, 2**31, 2**31, 2**31]
    new = json.dumps(header).encode()
    small.write_bytes(struct.pack("<Q", len(new)) + new + content[8 + size :])
    ignored(small)


# Writing


def test_a_save_that_fails_at_the_last_step_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    for home, step in ((Path, "replace"), (os, "fsync"), (os, "utime"), (store, "save_file")):
        with monkeypatch.context() as patch:
            patch.setattr(home, step, fail)
            with pytest.raises(SetupError) as error:
                save_prefix(tmp_path, stored())
        assert str(error.value) == (
            f"{tmp_path} cannot be written ([Errno 28] No space left on device): make room there, or name another folder"
        )
        assert list(tmp_path.iterdir()) == []


def test_a_save_that_fails_leaves_the_older_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_prefix(tmp_path, stored())
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("broken")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(SetupError):
        save_prefix(tmp_path, stored())
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_the_bytes_are_on_the_disk_before_the_file_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append(os.fstat(file).st_size), fsync(file)))
    monkeypatch.setattr(Path, "replace", lambda *names: (done.append("replace"), replace(*names)))
    path = save_prefix(tmp_path, stored())
    assert done == [path.stat().st_size, "replace"]


def test_leftovers_are_never_read_and_the_old_ones_are_removed_by_the_next_save(tmp_path: Path) -> None:
    whole = save_prefix(tmp_path, stored(first=1))
    old, young, other = (
        tmp_path / name for name in (f"{whole.name}abc.partial", f"{whole.name}def.partial", "notes.partial")
    )
    for path, age in ((old, 3700), (young, 3500), (other, 9999)):
        path.write_bytes(whole.read_bytes())
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    assert len(load(tmp_path)) == 1
    assert old.exists()
    second = save_prefix(tmp_path, stored(first=2))
    assert sorted(tmp_path.iterdir()) == sorted([whole, second, young, other])


def test_a_folder_that_is_a_file_can_be_neither_written_nor_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=f"^{tmp_path / 'file'} cannot be written"):
        save_prefix(tmp_path / "file", stored())
    with pytest.warns(RuntimeWarning) as caught:
        assert list(load_prefixes(tmp_path / "file", "base", SLOT_SHAPE, FLOAT32)) == []
    assert [str(warning.message) for warning in caught] == [f"{tmp_path / 'file'} cannot be read (Not a directory): ignored"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(SetupError, match=f"^{tmp_path} cannot be written .*Permission denied"):
        save_prefix(tmp_path, stored())
