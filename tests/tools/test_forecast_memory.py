"""Tests that the forecast of tools/forecast_memory.py equals the memory of the built-in model, and needs no weights."""

import json
import shutil
from pathlib import Path

import pytest

from mindnlp_ocr.bench import published
from mindnlp_ocr.cache.slots import KVSlots
from mindnlp_ocr.models.qwen2vl import EMBEDDED, Qwen2VLModel
from tests.tools.conftest import Tool


def test_weights_and_slots_are_those_of_a_loaded_model(model: Qwen2VLModel, tool: Tool, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "generation_config.json"):
        shutil.copy(EMBEDDED / name, folder / name)
    output, info = tmp_path / "forecast.json", model.get_model_info()
    options = ["--model", folder, "--dtype", "bf16", "--slots", 3, "--max-length", info["max_length"]]
    assert tool("forecast_memory", *options, "--output", output) == 0
    [row] = json.loads(output.read_text(encoding="utf-8"))["sections"]["forecast"]["rows"]
    assert row["weights_gb"] == pytest.approx(info["weights_mb"] / 1024, abs=0.006)
    kv = KVSlots.bytes_needed(model.config, 3, info["max_length"], 4)
    assert row["kv_gb"] == pytest.approx(kv / 2**30, abs=0.006)
    assert row["sum_gb"] == pytest.approx(row["weights_gb"] + row["kv_gb"] + row["activations_gb"], abs=0.02)


def test_every_published_shape_and_dtype_has_a_row_but_int8_on_an_npu(tool: Tool, tmp_path: Path) -> None:
    rows = {}
    for device in ("cpu", "npu:0"):
        output = tmp_path / f"{device[:3]}.json"
        assert tool("forecast_memory", "--device", device, "--output", output) == 0
        rows[device] = json.loads(output.read_text(encoding="utf-8"))["sections"]["forecast"]["rows"]
    assert (len(rows["cpu"]), len(rows["npu:0"])) == (20, 15)
    assert {row["model"] for row in rows["cpu"]} == set(published.NAMES.values())
    bf16 = {row["model"]: row["weights_gb"] for row in rows["cpu"] if row["dtype"] == "bf16"}
    assert (bf16["MinerU2.5-2509-1.2B"], bf16["Qwen2.5-VL-3B"], bf16["Qwen2.5-VL-7B"]) == (2.15, 6.99, 15.45)
