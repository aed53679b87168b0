"""Greedy decoding of batches of images of one size, with cached keys and values: fast enough for measurements on a CPU."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from training.batches import LAYOUT_ROOM, READ_HEIGHT, SYSTEM, TEXT_PROMPT, prompt_tail
from training.degrade import normalise
from training.model import Qwen2VL


class Reading(NamedTuple):
    text: str
    confidence: float  # the geometric mean of the tokens' probabilities


def as_read(crop: Image.Image) -> Image.Image:
    """Scale a line crop as the document reader and the image processor do: to a height of 40, then to a height of 28 and a
    width that is a multiple of 28."""
    width = max(1, round(crop.width * READ_HEIGHT / crop.height))
    crop = crop.convert("RGB").resize((width, READ_HEIGHT), Image.Resampling.BICUBIC)
    return crop.resize((28 * max(1, round(width / 28)), 28), Image.Resampling.BICUBIC)


class Reader:
    """Reads images with a model, on the model's device."""

    def __init__(self, model: Qwen2VL, tokenizer: Path, batch: int = 48) -> None:
        self.model, self._batch = model.eval(), batch
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._end = self._tokenizer.token_to_id("<|im_end|>")
        self._device = next(model.parameters()).device
        self._before = torch.tensor(self._tokenizer.encode(SYSTEM).ids, device=self._device)

    def read(self, pictures: Sequence[Image.Image], prompt: str = TEXT_PROMPT, special: bool = False) -> list[Reading]:
        """Return the readings in the order of the pictures, whose sides must be multiples of 28."""
        by_size = defaultdict(list)
        for number, picture in enumerate(pictures):
            by_size[picture.size].append(number)
        readings: dict[int, Reading] = {}
        for (width, height), numbers in by_size.items():
            room = LAYOUT_ROOM.get(width // 28, 620) if width == height else min(620, 20 + 3 * (width * height // 784))
            for start in range(0, len(numbers), self._batch):
                part = numbers[start : start + self._batch]
                stacked = np.stack([np.asarray(pictures[number].convert("RGB")) for number in part])
                found = self._read(torch.from_numpy(stacked).permute(0, 3, 1, 2), prompt, room, special)
                readings.update(zip(part, found, strict=True))
        return [readings[number] for number in range(len(pictures))]

    @torch.inference_mode()
    def _read(self, pictures: Tensor, prompt: str, room: int, special: bool) -> list[Reading]:
        model, config = self.model, self.model.config
        seen = model.encode(normalise(pictures.to(self._device).float() / 255))
        tail = torch.tensor(self._tokenizer.encode(prompt_tail(prompt)).ids, device=self._device)
        count = len(pictures)
        texts = [model.embed(ids, seen.dtype).expand(count, -1, -1) for ids in (self._before, tail)]
        x = torch.cat((texts[0], seen, texts[1]), 1)
        rows, columns = (edge // config.token for edge in pictures.shape[2:])
        positions = model.positions(len(self._before), rows, columns, len(tail) + room, self._device)
        cos, sin = model.rope(positions)
        past: list[list[Tensor]] = [[] for _ in model.model.layers]
        alive, at = torch.arange(count, device=self._device), 0
        tokens: list[list[int]] = [[] for _ in range(count)]
        scores: list[list[float]] = [[] for _ in range(count)]
        for _ in range(room):
            stop = at + x.shape[1]
            for block, kept in zip(model.model.layers, past, strict=True):
                x = block(x, cos[at:stop], sin[at:stop], kept)
            at = stop
            score, token = model.logits(model.model.norm(x[:, -1])).log_softmax(-1).max(-1)
            for number, one, likely in zip(alive.tolist(), token.tolist(), score.tolist(), strict=True):
                scores[number].append(likely)
                if one != self._end:
                    tokens[number].append(one)
            going = (token != self._end).nonzero()[:, 0]
            if not len(going):
                break
            if len(going) < len(alive):
                alive, token = alive[going], token[going]
                for kept in past:
                    kept[:] = [t[going] for t in kept]
            x = model.embed(token, seen.dtype)[:, None]
        decoded = [self._tokenizer.decode(ids, skip_special_tokens=not special) for ids in tokens]
        return [Reading(text, float(np.exp(np.mean(score)))) for text, score in zip(decoded, scores, strict=True)]
