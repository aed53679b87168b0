"""Tests of exported models: they give the same results as the original, and incomplete folders are rejected."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from mindnlp_ocr.cache.config import CacheConfig
from mindnlp_ocr.cli import main
from mindnlp_ocr.errors import PageError, SetupError
from mindnlp_ocr.export.manifest import FILE
from mindnlp_ocr.modeling import language, vision
from mindnlp_ocr.models.export import export_model
from mindnlp_ocr.models.limits import Limits
from mindnlp_ocr.models.qwen2vl import EMBEDDED, Qwen2VLModel
from tests.conftest import CASES, GOLDENS, ROOT, case, logit_bits, run
from tests.weights.test_lora import PAGES

LINE = case("line_392x28")
READ = [case for case in CASES if len(case["token_ids"]) <= 100]  # longer ones run the same graphs again


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The complete built-in model, exported with the defaults and then moved."""
    made, moved = (tmp_path_factory.mktemp(name) / "exported" for name in ("made", "moved"))
    export_model(EMBEDDED, made)
    made.rename(moved)
    return moved


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few graphs: of images up to 64 patches, and of slots of 128 tokens."""
    target = tmp_path_factory.mktemp("small") / "exported"
    export_model(EMBEDDED, target, cache_config=CacheConfig(slots=2), limits=Limits(128, 40), vision_patches=[64])
    return target


@pytest.fixture(scope="module")
def exported(folder: Path) -> Any:
    """Load an exported model while the Python network cannot be created."""

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("the Python network is made")

    with pytest.MonkeyPatch.context() as patched:
        for cell in (language.LanguageModel, vision.VisionTower):
            patched.setattr(cell, "__init__", refused)
        return Qwen2VLModel.from_exported(folder)


@pytest.mark.parametrize("golden", READ, ids=[case["name"] for case in READ])
def test_every_page_has_the_tokens_of_the_reference(exported: Qwen2VLModel, golden: dict[str, Any]) -> None:
    assert exported.generate(golden["messages"], golden["max_new_tokens"]).token_ids == golden["token_ids"]


def test_logits_are_those_of_the_live_model_to_the_bit_fresh_and_cached(model: Qwen2VLModel, exported: Qwen2VLModel) -> None:
    exported.clear_cache()
    for reused in (False, True):
        model.clear_cache()
        generation = run(exported, LINE["messages"], 5)
        assert (generation.reused > 0) == reused
        assert logit_bits(generation) == logit_bits(run(model, LINE["messages"], 5))


def test_pages_in_a_batch_have_the_tokens_that_they_have_alone(exported: Qwen2VLModel) -> None:
    cases = [case(name) for name in ("word_56x56", "line_392x28", "zh_line_336x34")]
    exported.clear_cache()
    readings = dict(exported.generate_batch([golden["messages"] for golden in cases], batch_size=3))
    for number, golden in enumerate(cases):
        reading = readings[number]
        assert not isinstance(reading, PageError)
        assert reading.token_ids == golden["token_ids"]


def test_no_graph_is_compiled_after_warm_up(small: Path) -> None:
    model = Qwen2VLModel.from_exported(small)
    model.warm_up(batch_size=2)
    compilations = model.get_model_info()["compilations"]
    assert compilations == len(json.loads((small / FILE).read_text(encoding="utf-8"))["graphs"])
    model.infer_batch([LINE["messages"], case("word_56x56")["messages"]])
    assert model.get_model_info()["compilations"] == compilations


def test_the_graphs_hold_neither_weights_nor_paths_of_this_machine(folder: Path) -> None:
    files = sorted(folder.glob("*.mindir"))
    assert len(files) == len(json.loads((folder / FILE).read_text(encoding="utf-8"))["graphs"])
    assert sum(path.stat().st_size for path in files) < 10 << 20
    for path in [*files, folder / FILE]:
        content = path.read_bytes()
        assert str(ROOT).encode() not in content
        assert b".so:" not in content


def test_two_exports_hold_the_same_weights_and_say_what_they_are_of(small: Path, folder: Path) -> None:
    first, second = (json.loads((path / FILE).read_text(encoding="utf-8")) for path in (small, folder))
    assert first["fingerprint"] == second["fingerprint"]
    assert first["parameters"] == second["parameters"]
    for name in first["parameter_files"]:
        assert (small / name).read_bytes() == (folder / name).read_bytes()
    assert (first["slots"], first["max_length"], first["max_pixels"]) == (2, 128, 64 * 196)


def test_an_export_with_an_adapter_reads_as_with_the_adapter(tmp_path: Path) -> None:
    adapter = GOLDENS / "lora" / "head"  # which unties the head
    limits = Limits(128, 40)
    export_model(EMBEDDED, tmp_path / "x", "cpu", adapter, CacheConfig(slots=1), limits, [64], dtype="fp32")
    model = Qwen2VLModel.from_exported(tmp_path / "x")
    page = PAGES["head"]["word_56x56"]
    assert model.generate(page["messages"], page["max_new_tokens"]).token_ids == page["token_ids"]


def test_eager_attention_is_exported_as_well(tmp_path: Path) -> None:
    limits = Limits(64, 20)
    export_model(
        EMBEDDED, tmp_path / "x", cache_config=CacheConfig(slots=2), limits=limits, vision_patches=[64], attn="eager"
    )
    model = Qwen2VLModel.from_exported(tmp_path / "x")
    assert model.get_model_info()["attn_implementation"] == "eager"
    assert model.generate(LINE["messages"]).token_ids == LINE["token_ids"][:12]  # what the slot holds


# What an export cannot do


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"max_length": 256},
            "max_length is 256, but exported was exported for 128: leave it out, or export the model again",
        ),
        ({"attn": "eager"}, "attn is eager, but exported was exported for flash"),
        ({"dtype": "int8"}, "dtype is int8, but exported was exported for bf16"),
        (
            {"max_pixels": 10**6},
            "max_pixels is 1000000, but exported supports up to 12544: use less, or export the model again",
        ),
        ({"cache_config": CacheConfig(slots=3)}, "slots is 3, but exported was exported for 2"),
        ({"cache_config": CacheConfig(kv_dtype="bf16")}, "kv_dtype is bf16, but exported was exported for fp32"),
        (
            {"cache_config": CacheConfig(enable_kv_cache=False)},
            "enable_kv_cache is False, but exported was exported for True",
        ),
        (
            {"lora_weights_path": "x"},
            r"exported is an exported model and accepts no adapter: export the model with the adapter \(--lora\)",
        ),
    ],
)
def test_settings_other_than_those_of_the_export_are_refused(small: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SetupError, match=words):
        Qwen2VLModel.from_exported(small, **settings)


def test_settings_are_refused_later_too_and_change_nothing(small: Path) -> None:
    model = Qwen2VLModel.from_exported(small, cache_config=CacheConfig(slots=2))
    with pytest.raises(SetupError, match="slots is 5, but exported was exported for 2"):
        model.update_cache_config(CacheConfig(slots=5))
    with pytest.raises(SetupError, match="exported is an exported model, so its adapter cannot be changed"):
        model.set_adapter(GOLDENS / "lora" / "patterns")
    model.update_cache_config(CacheConfig(cache_ttl_seconds=10))
    assert model.generate(LINE["messages"]).token_ids == LINE["token_ids"]


def test_a_page_beyond_the_graphs_is_that_pages_error(small: Path) -> None:
    model = Qwen2VLModel.from_exported(small)
    long = [{"role": "user", "content": "abc " * 200}]
    with pytest.raises(PageError, match=r"the prompt has \d+ tokens, but a slot holds 128"):
        model.generate(long)
    assert model.generate(LINE["messages"]).token_ids == LINE["token_ids"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"vision_patches": [66]}, "vision_patches contains 66: use multiples of 4"),
        ({"vision_patches": [0]}, "vision_patches contains 0: use multiples of 4"),
        ({"device": "cuda"}, "device 'cuda'"),
        ({"limits": Limits(max_length=1)}, "max_length is 1: use 64 to"),
    ],
)
def test_an_export_that_cannot_be_made_leaves_nothing(tmp_path: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(SetupError, match=words):
        export_model(EMBEDDED, tmp_path / "x", **arguments)
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_left_alone_unless_it_is_an_export_and_force_is_given(small: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.txt").write_text("mine", encoding="utf-8")
    for force in (False, True):
        with pytest.raises(SetupError, match="mine exists: name another folder, or add --force, which replaces an"):
            export_model(EMBEDDED, tmp_path / "mine", force=force)
    with pytest.raises(SetupError, match="exported exists: name another folder"):
        export_model(EMBEDDED, small)
    assert (tmp_path / "mine" / "mine.txt").read_text(encoding="utf-8") == "mine"


# Folders that are not whole


def changed(manifest: dict[str, Any], **values: Any) -> None:
    manifest.update(values)


PARAMETERS = "parameters-00001.safetensors"


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda f: (f / "decode-1.mindir").unlink(), "decode-1.mindir is missing or was changed: copy the exported folder"),
        (
            lambda f: (f / "prefill-64.mindir").write_bytes(b"x" + (f / "prefill-64.mindir").read_bytes()),
            "prefill-64.mindir is missing or was changed",
        ),
        (lambda f: (f / PARAMETERS).unlink(), "parameters-00001.safetensors is missing: copy the whole checkpoint again"),
        (
            lambda f: (f / PARAMETERS).write_bytes((f / PARAMETERS).read_bytes()[:-8]),
            "parameters-00001.safetensors is truncated or not safetensors",
        ),
        (
            lambda f: rewrite(f / PARAMETERS, lambda t: t.pop("model.norm.weight")),
            "lacks 1 parameters, for example model.norm.weight: copy the exported folder again",
        ),
        (
            lambda f: rewrite(f / PARAMETERS, lambda t: t.update({"model.norm.weight": t["model.norm.weight"][:9].copy()})),
            "model.norm.weight is ((9,), 'float32'), but export.json says ((384,), 'float32')",
        ),
        (lambda f: (f / "config.json").unlink(), "config.json is missing"),
        (lambda f: (f / FILE).write_text("{", encoding="utf-8"), "export.json cannot be read as JSON"),
    ],
)
def test_a_folder_that_is_damaged_says_where(
    small: Path, tmp_path: Path, harm: Callable[[Path], object], words: str
) -> None:
    damaged = Path(shutil.copytree(small, tmp_path / "damaged"))
    harm(damaged)
    with pytest.raises(SetupError) as error:
        Qwen2VLModel.from_exported(damaged)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: changed(m, format="mindnlp_ocr.export 2"), "has format 'mindnlp_ocr.export 2', but this release reads"),
        (lambda m: changed(m, mindnlp_ocr="0.0.1"), "was exported by mindnlp_ocr 0.0.1, but this is "),
        (lambda m: changed(m, device="Ascend"), "device is CPU, but damaged was exported for Ascend"),
        (lambda m: changed(m, more=1), "export.json cannot be used: more: Extra inputs are not permitted"),
        (lambda m: m.pop("slots"), "export.json cannot be used: slots: Field required"),
        (lambda m: changed(m, slots=-1), "export.json cannot be used: slots: "),
        (lambda m: m["graphs"][0].update(file="../decode-1.mindir"), "export.json cannot be used: graphs.0.file: "),
        (lambda m: changed(m, parameter_files=["/etc/passwd"]), "export.json cannot be used: parameter_files.0: "),
        (lambda m: changed(m, graphs=m["graphs"][:1]), "export.json lists no decode and no prefill graph"),
    ],
)
def test_an_export_of_another_version_or_with_other_facts_is_refused(
    small: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    damaged = Path(shutil.copytree(small, tmp_path / "damaged"))
    manifest = json.loads((damaged / FILE).read_text(encoding="utf-8"))
    change(manifest)
    (damaged / FILE).write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(SetupError) as error:
        Qwen2VLModel.from_exported(damaged)
    assert words in str(error.value)


def test_graphs_for_other_shapes_than_the_manifest_says_are_refused(small: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(small, tmp_path / "damaged"))
    manifest = json.loads((damaged / FILE).read_text(encoding="utf-8"))
    changed(manifest, max_length=256)
    (damaged / FILE).write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(SetupError, match=r"takes kv\.0\.keys as .*, but the folder contains .*: export the model again"):
        Qwen2VLModel.from_exported(damaged).generate(LINE["messages"])


def test_a_checkpoint_is_no_export() -> None:
    with pytest.raises(SetupError, match=r"contains no export\.json: "):
        Qwen2VLModel.from_exported(EMBEDDED)


# The command


def test_the_command_exports_and_infer_reads_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "exported"
    few = ["--vision-patches", "64", "--max-length", "128", "--max-new-tokens", "40", "--slots", "1"]
    command = [sys.executable, "tools/export.py", "--output", str(target), *few]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{target}: 5 graphs for CPU, flash attention, bf16 weights, 1 slots of 128 tokens: ")
    assert main(["tests/pages/line_392x28.png", "--model", str(target), "--prompt", "Read all the text in the image."]) == 0
    assert capsys.readouterr().out == f"{LINE['text']}\n"
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert again.stderr.startswith(f"error: {target} exists: ")
    assert again.stderr.endswith(" [target_exists]\n")
