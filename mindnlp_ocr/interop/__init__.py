"""Interoperability of mindnlp's models and this engine. No code for reading pages imports this package.

``import mindnlp`` changes MindSpore for the whole process; this engine continues to work (docs/mindnlp.md).
"""

from mindnlp_ocr.interop.attention import register_attention
from mindnlp_ocr.interop.checkpoint import MindNLPCheckpoint
from mindnlp_ocr.interop.loading import load_mindnlp

__all__ = ["MindNLPCheckpoint", "load_mindnlp", "register_attention"]
