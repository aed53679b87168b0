"""Common options, models and questions of the benchmarks that read pages."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mindnlp_ocr.bench.tool import checkout, positive
from mindnlp_ocr.cache.config import CacheConfig
from mindnlp_ocr.models.qwen2vl import EMBEDDED, Qwen2VLModel
from mindnlp_ocr.sampling import SamplingParams

EXAMPLES = ("invoice", "letter", "notice_zh", "receipt")
SMALL = ("word_56x56", "line_392x28")  # pages for --smoke
QUESTION = "Extract all text from this image."
OFF = CacheConfig(enable_kv_cache=False)


class Asked(NamedTuple):
    """The options of a benchmark.

    Attributes:
        pages: the images that are read.
        runs: number of measured runs per variant.
        tokens: numbers of generated tokens, by the name of the option.
        argv: the command line, for a subprocess that does a part of the work.
    """

    model_path: str
    device: str
    lora_path: str | None
    flash: bool
    pages: list[Path]
    runs: int
    tokens: dict[str, int]
    smoke: bool
    argv: tuple[str, ...]

    @classmethod
    def of(cls, arguments: argparse.Namespace, argv: Sequence[str]) -> "Asked":
        """Return the options that a parser with :func:`add_options` read from ``argv``.

        Raises:
            SetupError: no pages are named, and the package was installed without its repository, which has default pages.
        """
        smoke = arguments.smoke
        pages = [] if smoke else arguments.images
        if not pages:
            root = checkout("no pages are named with --images")
            folder, names = ("tests/pages", SMALL) if smoke else ("examples", EXAMPLES)
            pages = [root / folder / f"{name}.png" for name in names]
        return cls(
            arguments.model_path,
            arguments.device,
            arguments.lora_path,
            arguments.flash_attention,
            pages,
            1 if smoke else arguments.runs,
            {name: option.smoke if smoke else getattr(arguments, name) for name, option in arguments.texts.items()},
            smoke,
            tuple(argv),
        )

    def model(self, **settings: Any) -> Qwen2VLModel:
        """Create a model."""
        attn = "flash" if self.flash else "auto"
        return Qwen2VLModel(self.model_path, self.device, self.lora_path, **{"attn": attn, **settings})


class Tokens(NamedTuple):
    """An option for the number of tokens of a text."""

    default: int
    smoke: int
    help: str


def add_options(parser: argparse.ArgumentParser, runs: int, **tokens: Tokens) -> None:
    """Add the options that :class:`Asked` uses. Names with underscores are accepted as well."""
    parser.add_argument(
        "--model-path",
        "--model_path",
        default=str(EMBEDDED),
        metavar="PATH",
        help="a checkpoint folder, a merged .npz or an exported folder (default: the built-in model)",
    )
    parser.add_argument("--device", default="cpu", help="cpu, npu:0 or Ascend (default: cpu)")
    parser.add_argument("--lora-path", "--lora_path", metavar="DIR", help="LoRA adapter of the model")
    parser.add_argument(
        "--flash-attention",
        "--flash_attention",
        action="store_true",
        help="require flash attention (default: flash attention on a CPU, eager attention on an NPU)",
    )
    parser.add_argument(
        "--images", nargs="+", type=Path, default=[], metavar="PAGE", help="pages to read (default: those of examples/)"
    )
    parser.add_argument(
        "--runs", type=positive, default=runs, help=f"number of measured runs, after a warm-up run (default: {runs})"
    )
    for name, (default, _, text) in tokens.items():
        names = dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}"))
        parser.add_argument(*names, type=positive, default=default, metavar="N", help=f"{text} (default: {default})")
    parser.add_argument("--output", metavar="FILE", help="write the figures to FILE as JSON")
    parser.add_argument("--report", metavar="DIR", type=Path, help="write report.md, report.html and plots to DIR")
    parser.add_argument(
        "--smoke", action="store_true", help="only check that everything runs: one run, small pages, few tokens"
    )
    parser.set_defaults(texts=tokens)


def ask(image: Any, question: str = QUESTION) -> list[dict[str, Any]]:
    """Return the messages for one page."""
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": question}]}]


def endless(model: Qwen2VLModel) -> Qwen2VLModel:
    """Change a model so that it never ends a text: all variants then generate the requested number of tokens."""
    positions = max(model.config.max_position_embeddings, 1 << 18)
    model.requests.config = model.config.model_copy(update={"eos_token_ids": (), "max_position_embeddings": positions})
    model.requests.default = SamplingParams(repetition_guard=False)
    return model


def same(texts: list[Any]) -> None:
    """Exit with an error if two variants generated different tokens."""
    if any(text != texts[0] for text in texts):
        raise SystemExit("error: the two variants generated different tokens, so their times cannot be compared")
