"""Tests of saving and loading the cache of a model, bit for bit."""

import warnings
from pathlib import Path

import pytest

from mindnlp_ocr.cache.config import CacheConfig
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.models.network import Network
from mindnlp_ocr.models.qwen2vl import EMBEDDED, Qwen2VLModel
from mindnlp_ocr.ops import native
from mindnlp_ocr.weights.folder import FolderCheckpoint
from tests.conftest import case, logit_bits, run

NAMES = ("word_56x56", "line_400x60", "two_images")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    model = Qwen2VLModel()
    for name in NAMES:
        model.generate(case(name)["messages"])
    assert model.save_cache(folder) == len(list(folder.glob("*.safetensors"))) == 3
    return folder


@pytest.mark.skipif(not native.available()[0], reason="the same bits are promised on our CPU operators only")
def test_what_was_saved_is_reused_by_another_model_with_the_same_bits(saved: Path) -> None:
    model = Qwen2VLModel()
    expected = {name: logit_bits(run(model, case(name)["messages"], 8)) for name in NAMES}
    model.clear_cache()
    assert model.load_cache(saved) == 3
    assert model.load_cache(saved) == 0  # they are there
    stats = model.get_cache_stats()
    assert (stats["total_requests"], stats["cache_items"]) == (3, 3)
    for name in NAMES:
        generation = run(model, case(name)["messages"], 8)
        assert generation.reused == len(generation.key) - 1
        assert logit_bits(generation) == expected[name]


def test_a_cache_of_another_dtype_checkpoint_or_instruction_set_is_refused_and_named(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = Qwen2VLModel(cache_config=CacheConfig(kv_dtype="fp16"))
    with pytest.warns(RuntimeWarning, match="belongs to another checkpoint, dtype or adapter"):
        assert half.load_cache(saved) == 0
    model = Qwen2VLModel()
    monkeypatch.setattr(Network, "fingerprint", "0" * 64)
    with pytest.warns(RuntimeWarning, match="belongs to another checkpoint, dtype or adapter .*'000000"):
        assert model.load_cache(saved) == 0
    monkeypatch.undo()
    if native.available()[0] and len(native.instruction_sets()) > 1:
        before = native.instruction_set()
        native.use_instruction_set("portable")
        try:
            with pytest.warns(RuntimeWarning, match="portable"):
                assert model.load_cache(saved) == 0
        finally:
            native.use_instruction_set(before)


def test_damaged_files_are_named_and_the_others_are_loaded(saved: Path, tmp_path: Path) -> None:
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damaged = sorted(tmp_path.iterdir())[1]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    model = Qwen2VLModel()
    with pytest.warns(RuntimeWarning, match=f"{damaged.name} is damaged"):
        assert model.load_cache(tmp_path) == 2


def test_a_folder_that_is_not_there_loads_nothing_and_one_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    model = Qwen2VLModel()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.load_cache(tmp_path / "none") == 0
    model.generate(case("word_56x56")["messages"])
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=r"file cannot be written .*: make room there, or name another folder"):
        model.save_cache(tmp_path / "file")


def test_a_folder_keeps_to_the_budget_and_loses_the_oldest(tmp_path: Path) -> None:
    """Of texts: each takes 2.3 MB."""

    def ask(word: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"{word} " * 350}]

    model = Qwen2VLModel(cache_config=CacheConfig(max_cache_size_mb=12.3, slots=1))
    for word in ("one", "two", "for", "ten", "old"):
        model.generate(ask(word), 1)
        model.save_cache(tmp_path)
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 5
    model.update_cache_config(CacheConfig(max_cache_size_mb=12.0, slots=1))
    for word in ("new", "and", "the"):
        model.generate(ask(word), 1)
        model.save_cache(tmp_path)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 12.0 * 2**20
    newest = Qwen2VLModel()
    newest.load_cache(tmp_path)
    assert newest.generate(ask("the"), 1).reused_tokens > 0
    assert newest.generate(ask("one"), 1).reused_tokens == 0


def test_a_fingerprint_changes_with_every_byte_of_a_checkpoint(tmp_path: Path) -> None:
    for path in EMBEDDED.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    assert FolderCheckpoint(tmp_path).fingerprint() == FolderCheckpoint(EMBEDDED).fingerprint()
    weights = next(tmp_path.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert FolderCheckpoint(tmp_path).fingerprint() != FolderCheckpoint(EMBEDDED).fingerprint()
