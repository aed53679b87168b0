"""How the next token of a request is chosen from its logits, and where its text ends."""

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
