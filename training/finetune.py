"""Fine-tune a checkpoint on your own images, such as a font or a form that it reads badly.

    python -m training.finetune CHECKPOINT --train FOLDER --output ADAPTER                  # LoRA, for --lora ADAPTER
    python -m training.finetune CHECKPOINT --train FOLDER --output MODEL --rank 0 --lr 1e-4 # all weights, for --model MODEL

FOLDER contains images of lines or small pages, each with a text file: NAME.png (or .jpg) and NAME.txt. An image whose text
has one line is treated as a line and scaled as the package does; other images are read as pages. The error rates are
measured before and after training on ``--test`` or, by default, on a held-out fifth of the images, and also on ``--keep``,
pages whose accuracy must not decrease. Training on 200 lines takes some minutes on a CPU.

An adapter is stored in PEFT's format, and all weights in the published format, together with the checkpoint's other files.
"""

import argparse
import json
import logging
import math
import shutil
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from training.batches import READ_HEIGHT, SYSTEM, TEXT_PROMPT, WIDTHS, prompt_tail
from training.checkpoint import export, load
from training.decode import Reader, as_read
from training.degrade import Degrader, generator, normalise
from training.evaluate import character_error
from training.model import Qwen2VL

log = logging.getLogger("training")
TOKEN = 28  # side length of an image token in pixels
ROOM = 512  # maximum number of tokens of an answer; pictures with more text are skipped
SUFFIXES = (".png", ".jpg", ".jpeg")
WARM_UP = 0.06  # share of the steps
Answers = list[int]


class Sample(NamedTuple):
    name: str
    picture: Image.Image
    text: str

    @property
    def line(self) -> bool:
        return "\n" not in self.text


@dataclass
class Prompts:
    """The prompts of a checkpoint for lines and pages, and its maximum number of pixels of a page."""

    line: str = TEXT_PROMPT
    page: str = "Extract all text from this image."
    pixels: int = 401408

    @classmethod
    def of(cls, checkpoint: Path) -> "Prompts":
        found = cls()
        document, processor = checkpoint / "document_config.json", checkpoint / "preprocessor_config.json"
        if document.exists():
            declared = json.loads(document.read_text("utf8"))
            found.line = declared.get("lines", {}).get("prompt", found.line)
            found.page = declared.get("page_prompt", found.page)
        if processor.exists():
            found.pixels = json.loads(processor.read_text("utf8")).get("max_pixels", found.pixels)
        return found


def samples_of(folder: Path) -> list[Sample]:
    """Return the images of a folder that have a text file."""
    samples = []
    for path in sorted(folder.iterdir()):
        text = path.with_suffix(".txt")
        if path.suffix.lower() in SUFFIXES and text.exists():
            samples.append(Sample(path.name, Image.open(path).convert("RGB"), text.read_text("utf8").strip("\n")))
    if not samples:
        raise SystemExit(f"{folder} contains no NAME.png with a NAME.txt")
    return samples


def parted(samples: Sequence[Sample], share: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Split samples at random. Returns those for training and those held out."""
    order = list(samples)
    Random(seed).shuffle(order)
    count = max(1, round(share * len(order)))
    return order[count:], order[:count]


def page_size(width: int, height: int, pixels: int) -> tuple[int, int]:
    """Return the size of a page as the image processor scales it: multiples of 28, with at most ``pixels`` pixels."""
    wide, high = (max(TOKEN, round(edge / TOKEN) * TOKEN) for edge in (width, height))
    if wide * high > pixels:
        scale = math.sqrt(pixels / (width * height))
        wide, high = (max(TOKEN, int(edge * scale / TOKEN) * TOKEN) for edge in (width, height))
    return wide, high


def as_page(picture: Image.Image, pixels: int) -> Image.Image:
    return picture.resize(page_size(*picture.size, pixels), Image.Resampling.BICUBIC)


def as_learnt(picture: Image.Image, r: Random) -> Image.Image:
    """Scale a line as for reading, but with a size that varies by a few percent, and to a common width, so that lines can
    share a batch."""
    height, width = READ_HEIGHT + r.choice((0, 0, 0, -6, 6)), picture.width * READ_HEIGHT / picture.height
    width = max(TOKEN, int(width * r.uniform(0.95, 1.05)))
    near = min(WIDTHS, key=lambda tokens: abs(math.log(tokens * TOKEN / width)))
    if abs(math.log(near * TOKEN / width)) > 0.12:
        near = max(1, round(width / TOKEN))
    return picture.resize((width, height), Image.Resampling.BICUBIC).resize((TOKEN * near, TOKEN), Image.Resampling.BICUBIC)


# LoRA


class LowRank(nn.Module):
    """A frozen linear layer, and a product of two small matrices that is trained."""

    def __init__(self, base: nn.Linear, rank: int, scaling: float) -> None:
        super().__init__()
        self.base_layer, self.scaling = base, scaling
        self.lora_A, self.lora_B = (
            nn.Parameter(torch.empty(rank, base.in_features)),
            nn.Parameter(torch.zeros(base.out_features, rank)),
        )
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.scaling * F.linear(F.linear(x, self.lora_A), self.lora_B)  # type: ignore[no-any-return]


def add_low_rank(model: nn.Module, rank: int, scaling: float) -> dict[str, LowRank]:
    """Add a low-rank part to every linear layer, and freeze all other parameters."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    added = {}
    for name, layer in layers.items():
        parent, _, last = name.rpartition(".")
        added[name] = LowRank(layer, rank, scaling)
        model.get_submodule(parent).add_module(last, added[name])
    return added


def save_adapter(parts: dict[str, LowRank], folder: Path, alpha: float, base: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, part in parts.items():
        for side in ("lora_A", "lora_B"):
            tensors[f"base_model.model.{name}.{side}.weight"] = getattr(part, side).detach().float().cpu().contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": next(iter(parts.values())).lora_A.shape[0],
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({name.rpartition(".")[2] for name in parts}),
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf8")


def save_whole(model: Qwen2VL, checkpoint: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in checkpoint.iterdir():
        if path.is_file() and ".safetensors" not in path.name:
            shutil.copy(path, folder / path.name)
    export(model.state_dict(), folder)


# Learning


class Learner:
    """Trains a model with batches of pictures of one size."""

    def __init__(self, model: Qwen2VL, tokenizer: Path, prompts: Prompts, options: argparse.Namespace) -> None:
        self.model, self.prompts, self.options = model, prompts, options
        self.device = next(model.parameters()).device
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._end = self._tokenizer.token_to_id("<|im_end|>")
        self._before = torch.tensor(self._tokenizer.encode(SYSTEM).ids, device=self.device)
        self._random = Random(options.seed)
        self._degrade = Degrader(generator(self.device, options.seed))
        self._learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(self._learnt, lr=options.lr, betas=(0.9, 0.98), weight_decay=0.01)

    def _answer(self, sample: Sample) -> Answers:
        return [*self._tokenizer.encode(sample.text).ids, self._end]

    def batches(self, samples: Sequence[Sample]) -> list[list[tuple[Image.Image, Sample]]]:
        """Return batches of all samples in random order; the pictures of a batch have the same size."""
        r, options = self._random, self.options
        by_size: dict[tuple[bool, tuple[int, int]], list[tuple[Image.Image, Sample]]] = defaultdict(list)
        for sample in samples:
            line = sample.line
            picture = as_learnt(sample.picture, r) if line else as_page(sample.picture, self.prompts.pixels)
            by_size[line, picture.size].append((picture, sample))
        batches = []
        for (line, size), members in by_size.items():
            r.shuffle(members)
            count = options.batch if line else max(1, options.batch * 16 // (size[0] * size[1] // TOKEN**2))
            batches += [members[start : start + count] for start in range(0, len(members), count)]
        r.shuffle(batches)
        return batches

    def step(self, members: Sequence[tuple[Image.Image, Sample]], rate: float) -> float:
        line = members[0][1].line
        prompt = self._tokenizer.encode(prompt_tail(self.prompts.line if line else self.prompts.page)).ids
        answers = [self._answer(sample) for _, sample in members]
        room = len(prompt) + max(map(len, answers))
        after = torch.full((len(members), room), self._end)
        learnt = torch.zeros((len(members), room), dtype=torch.bool)
        for i, answer in enumerate(answers):
            stop = len(prompt) + len(answer)
            after[i, :stop] = torch.tensor(prompt + answer)
            learnt[i, len(prompt) - 1 : stop - 1] = True
        after, learnt = after.to(self.device), learnt.to(self.device)
        pictures = self._pictures([picture for picture, _ in members])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            hidden = self.model(pictures, self._before, after[:, :-1]).hidden
            loss = F.cross_entropy(self.model.logits(hidden[learnt[:, :-1]]).float(), after[:, 1:][learnt[:, :-1]])
        loss.backward()  # type: ignore[no-untyped-call]
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        if torch.isfinite(torch.nn.utils.clip_grad_norm_(self._learnt, 1.0)):
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(loss.item())

    @torch.no_grad()
    def _pictures(self, pictures: list[Image.Image]) -> Tensor:
        """Return a batch of pictures, unchanged or, at random, in grey and degraded as in pre-training."""
        if self._random.random() < self.options.degrade:
            grey = np.stack([np.asarray(picture.convert("L")) for picture in pictures])
            return self._degrade(torch.from_numpy(grey).to(self.device), False)
        stacked = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).to(self.device)
        return normalise(stacked.permute(0, 3, 1, 2).float() / 255)

    def fit(self, samples: Sequence[Sample]) -> None:
        kept = [sample for sample in samples if len(self._answer(sample)) <= ROOM]
        if len(kept) < len(samples):
            log.info("%d pictures with more than %d tokens of text are skipped", len(samples) - len(kept), ROOM)
        start, losses = time.time(), list[float]()
        self.model.train()
        for epoch in range(self.options.epochs):
            batches = self.batches(kept)
            for number, members in enumerate(batches):
                done = (epoch + number / len(batches)) / self.options.epochs
                rate = self.options.lr * min(1.0, (done + 0.002) / WARM_UP) * (0.02 + 0.49 * (1 + math.cos(math.pi * done)))
                losses.append(self.step(members, rate))
            recent = losses[-len(batches) :]
            log.info("epoch %d, loss %.3f, %.0f s", epoch + 1, sum(recent) / len(recent), time.time() - start)
        self.model.eval()


def measure(model: Qwen2VL, tokenizer: Path, prompts: Prompts, samples: Sequence[Sample]) -> dict[str, float]:
    """Return the character error rate and the share of pictures without an error."""
    reader = Reader(model, tokenizer, batch=16)
    lines, pages = ([sample for sample in samples if sample.line == kind] for kind in (True, False))
    found = reader.read([as_read(sample.picture) for sample in lines], prompts.line)
    found += reader.read([as_page(sample.picture, prompts.pixels) for sample in pages], prompts.page)
    pairs = [(reading.text.strip("\n"), sample.text) for reading, sample in zip(found, [*lines, *pages], strict=True)]
    right = sum(a == b for a, b in pairs)
    return {"character errors, %": character_error(pairs), "right, %": round(100 * right / len(pairs), 1)}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--train", type=Path, required=True, help="folder of images and texts for training")
    parser.add_argument("--test", type=Path, help="folder for the measurement (default: a held-out part of --train)")
    parser.add_argument("--held-out", type=float, default=0.2, help="share of that part (default: 0.2)")
    parser.add_argument("--keep", type=Path, help="another folder for the measurement, to detect forgetting")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rank", type=int, default=16, help="rank of the adapter; 0 trains all weights")
    parser.add_argument("--alpha", type=float, default=32.0)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--degrade", type=float, default=0.3, help="share of the batches that are degraded")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = parse(arguments)
    torch.manual_seed(options.seed)
    learn = samples_of(options.train)
    if options.test:
        test = samples_of(options.test)
    else:
        learn, test = parted(learn, options.held_out, options.seed)
    sets = {"held out": test, **({"kept": samples_of(options.keep)} if options.keep else {})}
    model = load(options.checkpoint).to(options.device)
    tokenizer, prompts = options.checkpoint / "tokenizer.json", Prompts.of(options.checkpoint)
    figures: dict[str, Any] = {"learnt": len(learn)}
    for name, samples in sets.items():
        figures[f"{name}, before"] = measure(model, tokenizer, prompts, samples)
    log.info("%s", figures)
    parts = add_low_rank(model, options.rank, options.alpha / options.rank) if options.rank else {}
    model.to(options.device)
    Learner(model, tokenizer, prompts, options).fit(learn)
    for name, samples in sets.items():
        figures[f"{name}, after"] = measure(model, tokenizer, prompts, samples)
    if parts:
        save_adapter(parts, options.output, options.alpha, options.checkpoint.name)
    else:
        save_whole(model, options.checkpoint, options.output)
    log.info("%s", figures)
    return figures


if __name__ == "__main__":
    main()
