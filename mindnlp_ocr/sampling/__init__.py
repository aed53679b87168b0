"""Sampling: the choice of the next token of a request from its logits, and the detection of the end of its text."""

from mindnlp_ocr.sampling.grammar import Grammar, GrammarCompiler
from mindnlp_ocr.sampling.params import SamplingParams
from mindnlp_ocr.sampling.repetition import RepetitionGuard, find_loop
from mindnlp_ocr.sampling.sampler import Choice, Sampler
from mindnlp_ocr.sampling.stops import Sent, StopStrings

__all__ = [
    "Choice",
    "Grammar",
    "GrammarCompiler",
    "RepetitionGuard",
    "Sampler",
    "SamplingParams",
    "Sent",
    "StopStrings",
    "find_loop",
]
