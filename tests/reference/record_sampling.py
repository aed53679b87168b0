"""Record what transformers' logits processors and warpers make of random logits, for mindnlp_ocr/sampling.

    .venv-reference/bin/python tests/reference/record_sampling.py --output tests/goldens

The processors of a case and their order are those that transformers' own ``_get_logits_processor`` gives for its settings.
vLLM's presence and frequency penalties, which transformers lacks, are two lines of PyTorch here, as in vLLM's
``apply_penalties``, behind the repetition penalty. A history is what was generated; there is no prompt.

sampling.json: versions and, for every case, the row of logits, the history and the settings under the names of
SamplingParams (``bad_words_ids`` instead of ``bad_words``). sampling.npz: ``logits`` [rows, vocab] and ``processed``
[cases, vocab], float32.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PretrainedConfig
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor
from transformers.generation.utils import GenerationMixin

VOCAB = 500
EOS = [7, 3]


class CountPenalties(LogitsProcessor):
    """vLLM's: frequency first, then presence, each of its own subtraction in float32."""

    def __init__(self, presence: float, frequency: float) -> None:
        self.presence, self.frequency = presence, frequency

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        counts = torch.bincount(input_ids[0], minlength=scores.shape[1])[None]
        scores = scores - torch.tensor(self.frequency) * counts
        return scores - torch.tensor(self.presence) * (counts > 0)


class Model(GenerationMixin):
    """As much of a model as ``_get_logits_processor`` asks for."""

    config = PretrainedConfig()


def logits() -> np.ndarray:
    """Flat, usual, peaked, with many ties, and all equal."""
    random = np.random.default_rng(20)
    rows = [random.standard_normal(VOCAB) * scale for scale in (0.5, 3.0, 12.0)]
    rows += [np.round(random.standard_normal(VOCAB) * 2), np.full(VOCAB, 1.5)]
    return np.asarray(rows, np.float32)


def histories() -> list[list[int]]:
    """None yet, one token, one that repeats itself, and a long one."""
    random = np.random.default_rng(21)
    return [[], [11], [5, 6, 5, 6, 8, 5, 6, 5], random.integers(0, 40, 120).tolist()]


def settings() -> list[dict[str, Any]]:
    """Each rule and filter alone at several values, then together."""
    alone: list[dict[str, Any]] = [
        *({"temperature": value} for value in (0.1, 0.7, 1.9)),
        *({"temperature": 1.0, "top_k": value} for value in (1, 5, 40, 499, 700)),
        *({"temperature": 1.0, "top_p": value} for value in (1e-6, 0.1, 0.5, 0.9, 0.999)),
        *({"temperature": 1.0, "min_p": value} for value in (0.001, 0.05, 0.5, 1.0)),
    ]
    of_history: list[dict[str, Any]] = [
        *({"repetition_penalty": value} for value in (0.8, 1.05, 1.7)),
        {"presence_penalty": 1.1},
        {"frequency_penalty": 0.3},
        {"presence_penalty": -0.7, "frequency_penalty": 0.21},
        *({"no_repeat_ngram_size": value} for value in (1, 2, 3, 5)),
        {"bad_words_ids": [[9], [7], [5, 21], [6, 5, 22], [30, 31]]},
        {"min_new_tokens": 8},
    ]
    together: list[dict[str, Any]] = [
        {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
        {"temperature": 1.3, "top_k": 50, "top_p": 0.95, "min_p": 0.02},
        {"temperature": 0.6, "top_p": 0.95, "min_p": 0.1},
        {"repetition_penalty": 1.2, "no_repeat_ngram_size": 2, "min_new_tokens": 9, "bad_words_ids": [[5, 21], [12]]},
        {
            "repetition_penalty": 1.1,
            "presence_penalty": 0.5,
            "frequency_penalty": 0.1,
            "no_repeat_ngram_size": 3,
            "min_new_tokens": 200,
            "bad_words_ids": [[9], [6, 5, 22]],
            "temperature": 0.8,
            "top_k": 100,
            "top_p": 0.9,
            "min_p": 0.01,
        },
    ]
    cases = [{"row": row, "history": 0, "settings": each} for each in alone for row in range(5)]
    cases += [{"row": row, "history": row, "settings": each} for each in of_history for row in range(4)]
    cases += [
        {"row": row, "history": number, "settings": each} for each in together for row in range(5) for number in (2, 3)
    ]
    return cases


def processors(chosen: dict[str, Any]) -> LogitsProcessorList:
    """transformers' own, in its own order, with vLLM's penalties put in."""
    names = {"temperature", "top_k", "top_p", "min_p", "repetition_penalty", "no_repeat_ngram_size", "bad_words_ids"}
    config = GenerationConfig(
        do_sample="temperature" in chosen,
        top_k=chosen.get("top_k", 0),
        min_new_tokens=chosen.get("min_new_tokens"),
        eos_token_id=EOS,
        **{name: value for name, value in chosen.items() if name in names - {"top_k"}},
    )
    config._eos_token_tensor = torch.tensor(EOS)
    found = Model()._get_logits_processor(
        config, input_ids_seq_length=0, device="cpu", logits_processor=LogitsProcessorList()
    )
    if "presence_penalty" in chosen or "frequency_penalty" in chosen:
        at = sum(isinstance(each, RepetitionPenaltyLogitsProcessor) for each in found)
        found.insert(at, CountPenalties(chosen.get("presence_penalty", 0.0), chosen.get("frequency_penalty", 0.0)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    folder = parser.parse_args().output
    torch.set_num_threads(1)
    rows, told, cases = logits(), histories(), settings()
    processed = []
    for case in cases:
        ids = torch.tensor([told[case["history"]]], dtype=torch.long)
        scores = processors(case["settings"])(ids, torch.from_numpy(rows[case["row"] : case["row"] + 1].copy()))
        processed.append(scores[0].numpy())
    np.savez_compressed(folder / "sampling.npz", logits=rows, processed=np.asarray(processed, np.float32))
    about = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "eos_token_ids": EOS,
        "histories": told,
        "cases": cases,
    }
    (folder / "sampling.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
    print(f"{len(cases)} cases, {(folder / 'sampling.npz').stat().st_size} bytes")


if __name__ == "__main__":
    main()
