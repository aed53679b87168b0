"""Tests of the cache settings: validation and recommendations by device."""

import os
from pathlib import Path
from typing import Any

import pytest

from mindnlp_ocr.cache.config import CacheConfig, get_optimal_cache_config
from mindnlp_ocr.errors import SetupError


@pytest.mark.parametrize("value", [-1, -0.5, 0, 0.0, float("nan"), float("-inf"), True, False, "512", "512MB", None, [512]])
@pytest.mark.parametrize("name", ["max_cache_size_mb", "cache_ttl_seconds"])
def test_a_budget_or_a_lifetime_that_is_no_positive_number_is_refused_with_its_value(name: str, value: Any) -> None:
    with pytest.raises(SetupError) as error:
        CacheConfig(**{name: value})
    assert str(error.value) == f"{name} is {value!r}: use a number above 0"


@pytest.mark.parametrize("value", [0.001, 1, 2048, 1e9])
def test_any_positive_number_is_a_budget(value: float) -> None:
    assert CacheConfig(max_cache_size_mb=value).max_bytes == int(value * 1024 * 1024)


@pytest.mark.parametrize("value", [0, -1, True, 2.0, "8"])
def test_an_invalid_number_of_slots_is_rejected_with_its_value(value: Any) -> None:
    with pytest.raises(SetupError, match=f"slots is {value!r}: use 1 or more, or None"):
        CacheConfig(slots=value)


@pytest.mark.parametrize("value", ["int8", "float16", None, 16])
def test_an_unknown_dtype_of_keys_and_values_is_refused_with_those_there_are(value: Any) -> None:
    with pytest.raises(SetupError, match=f"kv_dtype is {value!r}: use one of fp32, fp16, bf16"):
        CacheConfig(kv_dtype=value)


@pytest.mark.parametrize(
    ("budget_mb", "slot_mb", "slots"), [(512, 12, 8), (96, 12, 7), (12, 12, 1), (25, 12, 1), (27, 12, 2), (1000, 235, 3)]
)
def test_slots_take_nine_tenths_of_the_budget_and_are_eight_at_most(budget_mb: float, slot_mb: int, slots: int) -> None:
    assert CacheConfig(max_cache_size_mb=budget_mb).slots_of(slot_mb << 20, 2048) == slots


def test_the_defaults_are_the_documented_ones() -> None:
    assert vars(CacheConfig()) == {
        "enable_kv_cache": True,
        "max_cache_size_mb": 2048.0,
        "enable_lru": True,
        "cache_ttl_seconds": 300.0,
        "enable_flash_attention": False,
        "auto_detect_flash_attention": True,
        "kv_dtype": "fp32",
        "slots": None,
        "most_slots": 8,
    }


@pytest.mark.parametrize(
    ("device", "budget"), [("cpu", 512), ("CPU", 512), ("npu:0", 1024), ("npu:3", 1024), ("Ascend", 1024)]
)
def test_the_recommended_budget_of_a_cpu_and_an_npu(device: str, budget: float) -> None:
    assert get_optimal_cache_config(device).max_cache_size_mb == budget


def test_an_unknown_device_has_no_recommendation() -> None:
    with pytest.raises(SetupError, match="device 'tpu' is unknown"):
        get_optimal_cache_config("tpu")


def test_cuda_without_nvidia_smi_gets_the_budget_of_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert get_optimal_cache_config("cuda").max_cache_size_mb == 512


def _fake_nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    script = folder / "nvidia-smi"
    script.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")


def test_cuda_is_given_a_fifth_of_what_the_model_leaves_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_nvidia_smi(tmp_path, monkeypatch, "echo 24576")
    assert get_optimal_cache_config("cuda").max_cache_size_mb == pytest.approx(0.2 * (24576 - 7 * 1024))
    assert get_optimal_cache_config("cuda", model_size_gb=4).max_cache_size_mb == pytest.approx(0.2 * (24576 - 4 * 1024))


def test_cuda_with_less_free_than_the_model_takes_still_has_a_valid_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake_nvidia_smi(tmp_path, monkeypatch, "echo 2000")
    assert get_optimal_cache_config("cuda").max_cache_size_mb == 1.0


def test_the_second_cuda_device_is_given_its_own_memory_not_the_firsts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Install a script that answers like nvidia-smi: one line for the device of --id or -i, or for every device."""
    body = 'case "$*" in *id=0*|*"-i 0"*) echo 10000;; *id=1*|*"-i 1"*) echo 20000;; *) echo 10000; echo 20000;; esac'
    _fake_nvidia_smi(tmp_path, monkeypatch, body)
    for index, free in enumerate((10000, 20000)):
        assert get_optimal_cache_config(f"cuda:{index}", 1).max_cache_size_mb == pytest.approx(0.2 * (free - 1024))


@pytest.mark.parametrize(
    "body", ["exit 9", "echo 'No devices were found'", "echo '[N/A]'", "true", "echo 12000; exit 1", "echo 12 >&2"]
)
def test_an_nvidia_smi_without_numbers_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    _fake_nvidia_smi(tmp_path, monkeypatch, body)
    assert get_optimal_cache_config("cuda").max_cache_size_mb == 512
