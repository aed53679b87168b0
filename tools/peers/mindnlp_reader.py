"""Reader with mindnlp, which runs the code of transformers on MindSpore, with mindnlp's own attention or ours."""

from common import CHECKPOINT, Reader

from mindnlp_ocr.interop import load_mindnlp, register_attention


def open_reader(attention: str) -> Reader:
    if attention == "mindnlp_ocr_flash":
        register_attention(attention)
    model = load_mindnlp(CHECKPOINT, attention)
    import mindspore as ms

    ms.runtime.launch_blocking()  # three times as fast as the default
    from transformers_reader import Transformers  # after mindnlp, which replaces torch

    return Transformers(model, ("mindnlp", "mindspore"))
