"""Train from a checkpoint's weights for so many seconds; a later call goes on from what the last one stored.

    torchrun --nproc_per_node 2 -m training.train --data DATA --real REAL --resume CHECKPOINT --work WORK --seconds 1400

DATA and REAL are described in training/README.md. WORK holds ``state.pt`` and the weights in ``weights/``, both written
every ``--save`` seconds and at the end. ``--device cpu --steps 2 --tokens 3000 --workers 0`` tries it out on a CPU.
"""

import argparse
import logging
import math
import os
import queue
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from training.batches import SYSTEM, Batch, Batches
from training.checkpoint import export, load
from training.degrade import Degrader, generator
from training.fonts import Store
from training.model import Qwen2VL
from training.places import Places
from training.real import RealPages

log = logging.getLogger("training")
WARM_UP = 250  # steps
REUSE = 3  # a batch is degraded anew and used again while the loader has no fresh one, so many times at most
KEPT = 8
NOISY_BATCHES = 0.6  # share of the batches whose answers are noisy
NOISE = 0.08  # maximum share of the tokens of their answers that are replaced


@dataclass
class State:
    step: int = 0
    pictures: int = 0
    left_out: int = 0
    seconds: float = 0.0


@dataclass
class Feed:
    """Batches on the device: a fresh one where the loader has one ready, else the least used of the last few."""

    loader: Iterator[Batch]
    device: torch.device
    _ready: "queue.Queue[Batch]" = field(default_factory=lambda: queue.Queue(6))
    _kept: list[list[Any]] = field(default_factory=list)  # [times used, batch]

    def __post_init__(self) -> None:
        threading.Thread(target=self._fetch, daemon=True).start()

    def _fetch(self) -> None:
        try:
            for batch in self.loader:
                self._ready.put(batch)
        except Exception:
            log.exception("the loader failed")
            os._exit(1)  # else the call would wait for batches to its end

    def take(self) -> Batch:
        fresh = None
        try:
            fresh = self._ready.get_nowait()
        except queue.Empty:
            if all(uses >= REUSE for uses, _ in self._kept):
                fresh = self._ready.get()
        if fresh is not None:
            self._kept = [*self._kept[-KEPT + 1 :], [0, fresh.to(self.device)]]
            used = self._kept[-1]
        else:
            used = min(self._kept, key=lambda kept: kept[0])
        used[0] += 1
        batch: Batch = used[1]
        return batch

    def forget(self, batch: Batch) -> None:
        """Do not use this one again."""
        self._kept = [kept for kept in self._kept if kept[1] is not batch]


def with_noise(batch: Batch, share: float) -> Tensor:
    """Return the tokens after the picture [batch, tokens - 1], with a share of those of the answers replaced by random ones.

    The next token then has to be read from the picture, because it no longer follows from the tokens before it. The answers
    of layouts are not changed. The replacements are tokens of the answers of the batch.
    """
    tokens = batch.after[:, :-1]
    if share <= 0 or batch.regions.shape[1]:
        return tokens
    before = F.pad(batch.learnt, (1, 0))[:, : tokens.shape[1]]  # the token at t is of the answer if t - 1 is learnt
    answers = before & batch.learnt[:, :-1]  # without the token that ends it
    found = tokens[answers]
    if not len(found):
        return tokens
    replaced = answers & (torch.rand(tokens.shape, device=tokens.device) < share)
    return torch.where(replaced, found[torch.randint(len(found), tokens.shape, device=tokens.device)], tokens)


class Trainer:
    def __init__(self, options: argparse.Namespace, model: Qwen2VL, before: Tensor) -> None:
        self.options, self.model, self.before = options, model, before
        self.device = before.device
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        self.state = State()
        self.places = Places(model.config).to(self.device)
        self._parameters = [*model.parameters(), *self.places.parameters()]
        matrices = [p for p in self._parameters if p.ndim > 1]
        vectors = [p for p in self._parameters if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.98), fused=self.device.type == "cuda")
        self.mean = {name: p.detach().clone() for name, p in model.state_dict().items()}  # what is exported
        self._state_file = options.work / "state.pt"
        if self._state_file.exists():
            stored = torch.load(self._state_file, map_location=self.device)
            model.load_state_dict(stored["model"])
            self.places.load_state_dict(stored["places"])
            self.optimizer.load_state_dict(stored["optimizer"])
            self.mean, self.state = stored["mean"], State(**stored["state"])
        self._degrade = Degrader(generator(self.device, 1 + self.state.step + options.rank))
        self._learnt = [p for _, p in model.named_parameters()]
        self._means = [self.mean[name] for name, _ in model.named_parameters()]
        self.parts = dict[str, float]()  # the losses of the last layout

    def learning_rate(self, done: float) -> float:
        """A short rise, then a cosine over the whole time; done runs from 0 to 1."""
        rise = min(1.0, (self.state.step + 1) / WARM_UP)
        return float(self.options.lr * rise * (0.495 * (1 + math.cos(math.pi * min(1.0, done))) + 0.01))

    def step(self, batch: Batch, done: float) -> tuple[float, bool]:
        """One step; the loss, and whether it was taken: one whose gradient is not finite is left out on every GPU."""
        with torch.no_grad():
            pictures = self._degrade(batch.pictures, batch.drawn)
        noise = 0.0 if torch.rand(()).item() >= NOISY_BATCHES else NOISE * torch.rand(()).item()
        with torch.autocast(self.device.type, torch.bfloat16):
            states = self.model(pictures, self.before, with_noise(batch, noise))
            learnt = batch.learnt[:, :-1]
            loss = F.cross_entropy(self.model.logits(states.hidden[learnt]).float(), batch.after[:, 1:][learnt])
            whole = loss
            if batch.regions.shape[1]:
                rows, columns = (edge // self.model.config.token for edge in batch.pictures.shape[1:])
                kind, distance, digit = self.places(states, batch.regions, rows, columns)
                whole = loss + 0.5 * kind + distance + 0.5 * digit
                self.parts = {"kind": kind.item(), "distance": distance.item(), "digit": digit.item()}
        whole.backward()  # type: ignore[no-untyped-call]
        if self.world > 1:
            self._average_gradients()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(done)
        taken = bool(torch.isfinite(torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)))
        if taken:
            self.optimizer.step()
            decay = min(0.999, (1 + self.state.step) / (10 + self.state.step))
            with torch.no_grad():
                torch._foreach_lerp_(self._means, [p.data for p in self._learnt], 1 - decay)
            self.state.pictures += len(batch.pictures) * self.world
        else:
            self.state.left_out += 1
        self.optimizer.zero_grad(set_to_none=True)
        self.state.step += 1
        return loss.item(), taken

    def _average_gradients(self) -> None:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        flat = torch._utils._flatten_dense_tensors(gradients)  # type: ignore[no-untyped-call]
        dist.all_reduce(flat, op=dist.ReduceOp.AVG)
        parts = torch._utils._unflatten_dense_tensors(flat, gradients)  # type: ignore[no-untyped-call]
        for parameter, part in zip(self._parameters, parts, strict=True):
            parameter.grad = part

    def save(self) -> None:
        """Store the state and export the mean weights; each takes the place of the last as a whole."""
        stored = {
            "model": self.model.state_dict(),
            "places": self.places.state_dict(),
            "mean": self.mean,
            "optimizer": self.optimizer.state_dict(),
            "state": asdict(self.state),
        }
        new = self._state_file.with_suffix(".new")
        torch.save(stored, new)
        new.replace(self._state_file)
        weights, fresh = self.options.work / "weights", self.options.work / "weights.new"
        shutil.rmtree(fresh, ignore_errors=True)
        export(self.mean, fresh)
        shutil.rmtree(weights, ignore_errors=True)
        fresh.rename(weights)


def run(trainer: Trainer, feed: Feed) -> None:
    options, state = trainer.options, trainer.state
    start = saved = told = time.time()
    before, losses, done = state.seconds, dict[str, float](), 0.0
    first = state.step
    while True:
        if state.step % 20 == 0 or state.step == first:  # every process must stop at the same step
            clock = torch.tensor([time.time() - start], device=trainer.device)
            if trainer.world > 1:
                dist.broadcast(clock, 0)
            state.seconds = before + clock.item()
            done = state.seconds / options.seconds
            if done >= 1 or (options.steps and state.step >= options.steps) or 0 < options.call <= clock.item():
                break
        batch = feed.take()
        loss, taken = trainer.step(batch, done)
        if not taken:
            feed.forget(batch)
            log.info("left out at step %d: %s %s, loss %s", state.step, batch.kind, tuple(batch.pictures.shape), loss)
        elif options.rank == 0:
            losses[batch.kind] = 0.85 * losses.get(batch.kind, loss) + 0.15 * loss
        if options.rank == 0 and time.time() - told > options.tell:
            told = time.time()
            rounded = {kind: round(value, 3) for kind, value in sorted(losses.items())}
            parts = {name: round(value, 3) for name, value in trainer.parts.items()}
            log.info("%s %.0f %% %s %s", asdict(state), 100 * done, rounded, parts)
        if options.rank == 0 and time.time() - saved > options.save:
            saved = time.time()
            trainer.save()
    if options.rank == 0:
        trainer.save()
        log.info("trained: %s %s", asdict(state), losses)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="fonts, corpora and word lists")
    parser.add_argument("--real", type=Path, help="PDFs and scans with their lines")
    parser.add_argument("--resume", type=Path, required=True, help="the checkpoint to start from; its tokenizer is used")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=1400.0, help="of training, all calls together")
    parser.add_argument("--call", type=float, default=0.0, help="seconds after which this call stores its state and ends")
    parser.add_argument("--steps", type=int, default=0, help="stop after so many steps, rounded up to 20")
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--tokens", type=int, default=96000, help="of image and text in a batch, on each GPU")
    parser.add_argument("--workers", type=int, default=14, help="processes that draw batches, for each GPU")
    parser.add_argument("--save", type=float, default=120.0, help="seconds between two savings")
    parser.add_argument("--tell", type=float, default=20.0, help="seconds between two lines of progress")
    parser.add_argument("--seed", type=int, default=4117)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options = parser.parse_args(arguments)
    options.rank = int(os.environ.get("RANK", 0))
    options.world = int(os.environ.get("WORLD_SIZE", 1))
    return options


def batches_of(options: argparse.Namespace) -> Iterator[Batch]:
    """The loader, its processes already running. They are forked before CUDA starts."""
    stored = (options.work / "state.pt").exists()
    seed = options.seed + options.rank * 7919 + (int(time.time()) % 100_000 if stored else 0)
    real = RealPages(options.real) if options.real else None
    batches = Batches(Store(options.data), real, options.resume / "tokenizer.json", seed, options.tokens)
    several: dict[str, Any] = (
        {"prefetch_factor": 4, "multiprocessing_context": "fork", "in_order": False} if options.workers else {}
    )
    pinned = options.device == "cuda"
    loader = torch.utils.data.DataLoader(batches, batch_size=None, num_workers=options.workers, pin_memory=pinned, **several)
    return iter(loader)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = parse()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    options.work.mkdir(parents=True, exist_ok=True)
    loader = batches_of(options)
    device = torch.device(options.device, options.rank) if options.device == "cuda" else torch.device("cpu")
    if options.device == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cuda.enable_cudnn_sdp(False)  # flash attention instead
    if options.world > 1:
        dist.init_process_group("nccl" if options.device == "cuda" else "gloo")
    tokenizer = Tokenizer.from_file(str(options.resume / "tokenizer.json"))
    before = torch.tensor(tokenizer.encode(SYSTEM).ids, device=device)
    trainer = Trainer(options, load(options.resume).to(device), before)
    if options.device == "cuda":
        torch._dynamo.config.cache_size_limit = 64
        for block in [*trainer.model.visual.blocks, *trainer.model.model.layers]:
            block.compile(dynamic=True)
    run(trainer, Feed(loader, device))
    os._exit(0)  # the loader's processes and threads have no end of their own


if __name__ == "__main__":
    main()
