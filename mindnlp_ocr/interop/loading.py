"""mindnlp's own Qwen2-VL, with the weights of a folder read to the bit."""

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

    onnxruntime is hidden meanwhile: where diffusers sees it, mindnlp's ``from diffusers import *`` asks for a class that
    diffusers does not have.

    Raises:
        SetupError: it is not installed.
    """
    if importlib.util.find_spec("mindnlp") is None:
        raise SetupError("mindnlp is not installed: run `pip install 'mindnlp-ocr[mindnlp]'`")
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
    """A Qwen2VLForConditionalGeneration of mindnlp in float32.

    mindnlp's own loader turns bfloat16 into float16 off Ascend, which makes other numbers of large and of small ones.

    Args:
        checkpoint: as for Qwen2VLModel.
        attention: "eager", "sdpa", or a name given to :func:`mindnlp_ocr.interop.register_attention`.

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
        part.dtype = mindtorch.float32  # else what the folder says, where MindSpore's CPU has no kernels for bfloat16
    with no_init_weights():
        model = Qwen2VLForConditionalGeneration(theirs).eval()
    model.generation_config = generation
    with stored.weights(ours) as weights:
        for name, parameter in model.named_parameters():
            if published(name) not in weights:
                continue  # a head that is the embedding as well
            source = weights[published(name)]
            array = dequantize(source).reshape(parameter.shape) if isinstance(source, Quantized) else source
            parameter.data = mindtorch.from_numpy(np.array(array, np.float32))
    model.tie_weights()
    if isinstance(checkpoint, str | Path):
        model.name_or_path = str(checkpoint)
    return model
