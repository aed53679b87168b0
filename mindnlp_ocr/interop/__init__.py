"""Between mindnlp's models and this engine. Nothing on the way from a page to its text imports this package.

``import mindnlp`` changes MindSpore for the whole process; this engine runs on beside it (docs/mindnlp.md).
"""

from mindnlp_ocr.interop.attention import register_attention
from mindnlp_ocr.interop.checkpoint import MindNLPCheckpoint
from mindnlp_ocr.interop.loading import load_mindnlp

__all__ = ["MindNLPCheckpoint", "load_mindnlp", "register_attention"]
