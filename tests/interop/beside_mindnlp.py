"""Everything that needs mindnlp, in one process: what it finds goes to the file of its argument, as JSON. Run by
test_mindnlp.py."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from mindnlp_ocr.interop.loading import import_mindnlp

import_mindnlp()  # before all else of ours: what we import from MindSpore and safetensors is changed by then

from mindnlp_ocr.bench.reference import attend
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.interop import load_mindnlp, register_attention
from mindnlp_ocr.models.qwen2vl import EMBEDDED, Qwen2VLModel
from mindnlp_ocr.processing.chat import image_sources
from mindnlp_ocr.processing.images import ImageProcessor, load_image

GOLDENS = Path(__file__).parent.parent / "goldens" / "pages.json"
SMALL, LONGER = "word_56x56", "line_392x28"


def generated(model: Any, case: dict[str, Any]) -> list[int]:
    """The new tokens of mindnlp's own model for a golden case."""
    import mindtorch

    images = [ImageProcessor.from_folder(EMBEDDED).patches(load_image(x)) for x in image_sources(case["messages"])]
    ids = mindtorch.tensor(np.array([case["prompt_ids"]]))
    with mindtorch.no_grad():
        tokens = model.generate(
            input_ids=ids,
            attention_mask=mindtorch.ones_like(ids),
            pixel_values=mindtorch.from_numpy(np.concatenate([image.pixels for image in images])),
            image_grid_thw=mindtorch.tensor(np.array([image.grid_thw for image in images])),
            do_sample=False,
            max_new_tokens=case["max_new_tokens"],
        )
    new: list[int] = tokens.asnumpy()[0, len(case["prompt_ids"]) :].tolist()
    return new


def attention_errors(name: str) -> dict[str, float]:
    """How far the registered attention is from float64, by case: the largest difference where queries are no padding."""
    import mindtorch
    from transformers.masking_utils import AttentionMaskInterface, causal_mask_function
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    class Module:
        is_causal = True

    def run(tokens: int, keys: int, padding: list[list[int]] | None, held: int | None = None, **options: Any) -> float:
        """``padding`` has a 0 for every key that is padding; ``held``: keys of a cache that is longer than what it holds."""
        shapes = ((2, 4, tokens, 16), (2, 2, keys, 16), (2, 2, keys, 16))
        q, k, v = (random.standard_normal(shape).astype(np.float32) for shape in shapes)
        there = np.ones((2, keys), bool) if padding is None else np.array(padding, bool)
        mask = AttentionMaskInterface()[name](
            cache_position=mindtorch.tensor(np.arange((held or keys) - tokens, held or keys)),
            kv_length=keys,
            mask_function=causal_mask_function,
            attention_mask=None if padding is None else mindtorch.tensor(there),
        )
        answer, _ = ALL_ATTENTION_FUNCTIONS[name](Module(), *map(mindtorch.from_numpy, (q, k, v)), mask, **options)
        seen = held or keys
        order = np.arange(seen) <= np.arange(seen - tokens, seen)[:, None]
        error = 0.0
        for row in range(2):
            sees = order & there[row, :seen] if options.get("is_causal", True) else np.ones((tokens, keys), bool)
            scaled = q * options.get("scaling", 0.25) / 0.25  # attend divides by the root of 16
            expected = attend(*(x[row, :, :seen].swapaxes(0, 1).astype(np.float64) for x in (scaled, k, v)), sees)
            live = there[row, seen - tokens : seen]
            error = max(error, float(np.abs(answer.asnumpy()[row] - expected)[live].max()))
        return error

    random = np.random.default_rng(0)
    left, middle = [[0, 0, 1, 1, 1, 1, 1], [1] * 7], [[1, 1, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1]]
    return {
        "prompt": run(7, 7, None),
        "token": run(1, 7, None),
        "scaled": run(3, 7, None, scaling=0.5),
        "left padding": run(7, 7, left),
        "left padding, a token": run(1, 7, left),
        "a gap": run(3, 7, middle),
        "a longer cache": run(2, 9, None, held=7),
        "image": run(6, 6, None, is_causal=False),
    }


def refusals(name: str, model: Any) -> dict[str, str]:
    """Return the messages of rejected calls."""
    import mindtorch
    from transformers.masking_utils import AttentionMaskInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    x = mindtorch.from_numpy(np.zeros((1, 2, 3, 16), np.float32))
    attention, mask = ALL_ATTENTION_FUNCTIONS[name], AttentionMaskInterface()[name]
    there = mindtorch.tensor(np.arange(3))
    calls = {
        "dropout": lambda: attention(None, x, x, x, None, dropout=0.1, is_causal=True),
        "window": lambda: attention(None, x, x, x, None, sliding_window=2, is_causal=True),
        "mask": lambda: attention(None, x, x, x, mindtorch.ones((1, 1, 3, 3)), is_causal=True),
        "keys": lambda: attention(None, x[:, :, :1], x, x, None, is_causal=False),
        "packed": lambda: mask(cache_position=there, kv_length=3, mask_function=max),
        "processor": lambda: Qwen2VLModel.from_mindnlp(model, processor="no/such/folder"),
        "model": lambda: Qwen2VLModel.from_mindnlp(x),
    }
    told = {}
    for what, call in calls.items():
        try:
            call()
        except SetupError as error:
            told[what] = str(error)
    model.config.text_config.intermediate_size += 1
    try:
        Qwen2VLModel.from_mindnlp(model)
    except SetupError as error:
        told["shape"] = str(error)
    return told


def main() -> None:
    cases = {case["name"]: case for case in json.loads(GOLDENS.read_text(encoding="utf-8"))["cases"]}
    model = load_mindnlp(EMBEDDED)
    import mindspore as ms

    ms.runtime.launch_blocking()
    found: dict[str, Any] = {"mindnlp": {SMALL: generated(model, cases[SMALL])}}
    theirs = dict(model.named_parameters())
    for attn in ("flash", "eager"):
        ours = Qwen2VLModel.from_mindnlp(model, attn=attn)
        read = {name: ours.generate(cases[name]["messages"]).token_ids for name in (SMALL, LONGER)}
        held = {parameter.name: parameter for parameter in ours.engine.graphs.parameters()}
        found[attn] = read
        found["shared"] = [
            name
            for name in ("model.norm.weight", "model.layers.0.mlp.down_proj.weight")
            if held[name].data_ptr() == theirs[name.replace("model.", "model.language_model.")].data_ptr()
        ]
    with tempfile.TemporaryDirectory() as folder:
        found["saved"] = ours.save_cache(folder)
        ours.clear_cache()
        found["loaded"] = ours.load_cache(folder)
    found["reused"] = ours.generate(cases[LONGER]["messages"]).reused_tokens
    found["info"] = {name: ours.get_model_info()[name] for name in ("model_name", "dtype")}
    name = register_attention()
    found["errors"] = attention_errors(name)
    model.set_attn_implementation(name)
    found["registered"] = {SMALL: generated(model, cases[SMALL])}
    found["refused"] = refusals(name, model)
    Path(sys.argv[1]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
