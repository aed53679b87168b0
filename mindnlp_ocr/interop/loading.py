"""Loading of mindnlp's own Qwen2-VL with bitwise exact weights."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.weights.checkpoint import Checkpoint, open_checkpoint
from mindnlp_ocr.weights.names import published
from mindnlp_ocr.weights.quantize import Quantized, dequantize


def import_mindnlp() -> None:
    """Import mindnlp, which changes MindSpore for the whole process.

    onnxruntime is hidden during the import: if diffusers finds it, mindnlp's ``from diffusers import *`` requires a class
    that diffusers does not have.

    Raises:
        SetupError: mindnlp is not installed.
    """
    if importlib.util.find_spec("mindnlp") is None:
        raise SetupError("mindnlp is not installed: run `pip install 'mindnlp-ocr[mindnlp]'`", code="package_missing")
    missing = object()
    onnxruntime = sys.modules.get("onnxruntime", missing)
    sys.modules["onnxruntime"] = None  # type: ignore[assignment]
    try:
        importlib.import_module("mindnlp")
    finally:
        if onnxruntime is missing:
            del sys.modules["onnxruntime"]
        else:
            sys.modules["onnxruntime"] = onnxruntime  # type: ignore[assignment]


def load_mindnlp(checkpoint: str | Path | Checkpoint, attention: str = "eager") -> Any:
    """Load a Qwen2VLForConditionalGeneration of mindnlp in float32.

    Except on Ascend, mindnlp's own loader converts bfloat16 to float16, which changes large and small values.

    Args:
        checkpoint: see Qwen2VLModel.
        attention: "eager", "sdpa", or a name passed to :func:`mindnlp_ocr.interop.register_attention`.

    Raises:
        SetupError: mindnlp is not installed, or the checkpoint cannot be used.
    """
    stored = open_checkpoint(checkpoint)
    import_mindnlp()
    import mindtorch
    from transformers import GenerationConfig, Qwen2VLForConditionalGeneration
    from transformers import Qwen2VLConfig as TheirConfig
    from transformers.modeling_utils import no_init_weights

    with stored.files() as folder:
        theirs = TheirConfig.from_pretrained(str(folder), dtype=mindtorch.float32, attn_implementation=attention)
        generation = GenerationConfig.from_pretrained(str(folder))
        ours = stored.config(folder)
    for part in (theirs, theirs.text_config, theirs.vision_config):
        part.dtype = mindtorch.float32  # otherwise the dtype of the folder; MindSpore has no CPU kernels for bfloat16
    with no_init_weights():
        model = Qwen2VLForConditionalGeneration(theirs).eval()
    model.generation_config = generation
    with stored.weights(ours) as weights:
        for name, parameter in model.named_parameters():
            if published(name) not in weights:
                continue  # a head that is tied to the embedding
            source = weights[published(name)]
            array = dequantize(source).reshape(parameter.shape) if isinstance(source, Quantized) else source
            parameter.data = mindtorch.from_numpy(np.array(array, np.float32))
    model.tie_weights()
    if isinstance(checkpoint, str | Path):
        model.name_or_path = str(checkpoint)
    return model
