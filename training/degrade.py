"""Simulated effects of printing, scanning and photographing on a whole batch of pages at once, on the GPU."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
LAYOUT_EDGES = (616, 1036)
STRETCH = 1.43  # 40 / 28: lines are scaled to a height of 40, and then to 28 without a change of their width


def normalise(pictures: Tensor) -> Tensor:
    """Convert grey or colour from 0 to 1 as the image processor does: to three channels, with CLIP's mean and deviation."""
    mean, std = (torch.tensor(values, device=pictures.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (pictures - mean) / std


class Degrader:
    """Degrades batches at random. Whether an effect applies is drawn per batch, and its strength per picture."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._device = generator.device

    def __call__(self, pictures: Tensor, drawn: bool) -> Tensor:
        """Degrade uint8 [batch, height, width], ink masks if drawn, else grey; to normalised [batch, 3, height, width]."""
        ink = pictures[:, None].float() / 255
        if not drawn:
            ink = 1 - ink
        height, width = ink.shape[2:]
        line, whole_page = height == 28, height == width and height in LAYOUT_EDGES
        if not whole_page and self._happens(0.4):
            ink = self._warp(ink, drawn, line)
        if self._happens(0.22 if drawn else 0.12):
            ink = self._thicken(ink)
        if self._happens(0.1):
            ink = self._fade(ink)
        if self._happens(0.1):
            ink = self._break_strokes(ink)
        if self._happens(0.45):
            ink = self._blur(ink)
        grainy = line and self._happens(0.3 if drawn else 0.1)
        if grainy:
            ink = self._grain(ink)
        elif not whole_page and self._happens(0.36):
            ink = self._coarse(ink, line)
        if self._happens(0.13):  # a fax: two levels with ragged edges
            edge = self._uniform(ink, 0.25, 0.6)
            ink = torch.sigmoid((ink + self._normal(ink) * self._uniform(ink, 0, 0.12) - edge) * self._uniform(ink, 8, 40))
        if drawn:
            ink = (ink * self._uniform(ink, 0.75, 1.5)).clamp(-0.5 if grainy else 0.0, 1)
        else:
            ink = (ink * self._uniform(ink, 0.75, 1.25) - self._uniform(ink, 0, 0.06)).clamp(0, 1)
        return normalise(self._colour(ink, drawn).clamp(0, 1))

    # Random numbers

    def _happens(self, share: float) -> bool:
        return self._one() < share

    def _one(self) -> float:
        return torch.rand((), generator=self._generator, device=self._device).item()

    def _random(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self._generator, device=self._device)

    def _uniform(self, like: Tensor, low: float, high: float, *shape: int) -> Tensor:
        """Return one number per picture, as [batch, 1, 1, 1], or numbers of the given shape after the batch dimension."""
        return self._random(len(like), *(shape or (1, 1, 1))) * (high - low) + low

    def _normal(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self._generator, device=self._device)

    def _some(self, like: Tensor, share: float) -> Tensor:
        return self._uniform(like, 0, 1) < share

    def _smooth(self, like: Tensor, rows: int, columns: int) -> Tensor:
        """Return noise from 0 to 1 that changes slowly over the picture."""
        return F.interpolate(self._random(len(like), 1, rows, columns), size=like.shape[2:], mode="bilinear")

    # Effects

    def _warp(self, ink: Tensor, drawn: bool, line: bool) -> Tensor:
        """Rotate, slant, stretch and shift by small amounts."""
        batch, _, height, width = ink.shape
        limit = min(2.5, math.degrees(math.atan((0.1 if self._happens(0.7) else 0.2) * height / width)) + 0.05)

        def uniform(low: float, high: float) -> Tensor:
            return self._random(batch) * (high - low) + low

        angle = uniform(-limit, limit) * math.pi / 180
        slant = uniform(-0.12, 0.12) * height / width if line else uniform(-0.02, 0.02)
        across, down = uniform(0.97, 1.04), uniform(0.96, 1.14)
        matrix = torch.zeros(batch, 2, 3, device=ink.device)
        matrix[:, 0, 0], matrix[:, 0, 1] = across * angle.cos(), -angle.sin() * height / width + slant
        matrix[:, 1, 0], matrix[:, 1, 1] = angle.sin() * width / height, down * angle.cos()
        if line:
            matrix[:, 1, 2] = uniform(-0.07, 0.07)
        still = torch.tensor([[1.0, 0, 0], [0, 1, 0]], device=ink.device)
        matrix = torch.where((self._random(batch) < 0.6)[:, None, None], matrix, still)
        grid = F.affine_grid(matrix, list(ink.shape), align_corners=False)
        return F.grid_sample(ink, grid, padding_mode="zeros" if drawn else "border", align_corners=False)

    def _thicken(self, ink: Tensor) -> Tensor:
        kernel = [(1, 2), (2, 1), (2, 2)][int(self._one() * 3)]
        pad = (0, kernel[1] - 1, 0, kernel[0] - 1)
        if self._happens(0.6):
            other = F.max_pool2d(F.pad(ink, pad), kernel, 1)
        else:
            other = 1 - F.max_pool2d(F.pad(1 - ink, pad), kernel, 1)
        return ink + (other - ink) * self._uniform(ink, 0.2, 1.0)

    def _fade(self, ink: Tensor) -> Tensor:
        """Simulate thermal paper, with faint columns and bands."""
        bands = (1, 1, 3)[int(self._one() * 3)]
        noise = self._smooth(ink, bands, ink.shape[3] // (28 if self._happens(0.6) else 6) + 2)
        return ink * (1 - noise * self._uniform(ink, 0.1, 0.75) * self._some(ink, 0.7))

    def _break_strokes(self, ink: Tensor) -> Tensor:
        noise = self._smooth(ink, max(4, ink.shape[2] // 2), max(4, ink.shape[3] // 2))
        gone = torch.sigmoid((self._uniform(ink, 0.05, 0.38) - noise) * 25)
        return ink * (1 - gone * self._some(ink, 0.6))

    def _blur(self, ink: Tensor) -> Tensor:
        batch = len(ink)
        sigma = self._random(batch, 1) + 0.25
        kernel = torch.exp(-(torch.arange(-3, 4, device=ink.device).float() ** 2) / (2 * sigma**2))
        kernel = kernel / kernel.sum(1, keepdim=True)
        rows = F.conv2d(ink.transpose(0, 1), kernel.view(batch, 1, 7, 1), padding=(3, 0), groups=batch)
        return F.conv2d(rows, kernel.view(batch, 1, 1, 7), padding=(0, 3), groups=batch).transpose(0, 1)

    def _coarse(self, ink: Tensor, line: bool) -> Tensor:
        """Simulate a source of lower resolution, with noise at that resolution."""
        batch, _, height, width = ink.shape
        scale = self._one() * 0.5 + 0.42 if not line or self._happens(0.7) else self._one() * 0.14 + 0.3
        stretch = STRETCH if line and self._happens(0.85) else 1.0
        size = (max(9, int(height * scale)), max(8, int(width * scale / stretch)))
        small = F.interpolate(ink, size=size, mode="bilinear", antialias=self._happens(0.75))
        if self._happens(0.6):
            fine = scale > 0.5
            small = small + self._normal(small) * self._uniform(ink, 0, 0.2 if fine else 0.13) * self._some(ink, 0.6)
            where = self._random(batch, 1, *size)
            share = self._uniform(ink, 0, 0.03 if fine else 0.012) * self._some(ink, 0.3)
            small = torch.where(where < share, (where < share / 2).float(), small)  # salt and pepper
            if self._happens(0.3):
                small = (F.avg_pool2d(F.pad(small, (1, 1, 1, 1), mode="replicate"), 3, 1) + small) / 2
        if self._happens(0.3):  # only a few levels of grey
            small = (small.clamp(0, 1) * 255 / 24).round() * 24 / 255
        mode = "bilinear" if self._happens(0.5) else "bicubic"
        return F.interpolate(small, size=(height, width), mode=mode).clamp(0, 1)

    def _grain(self, ink: Tensor) -> Tensor:
        """Simulate a poor sensor: noise at the resolution of the source, with grains as large as a comma."""
        batch, _, height, width = ink.shape
        scale = self._one() * 0.62 + 0.4
        stretch = STRETCH if self._happens(0.85) else 1.0
        size = (max(10, int(height * scale)), max(8, int(width * scale / stretch)))
        small = F.interpolate(ink, size=size, mode="bilinear", antialias=True)
        small = small + self._normal(small) * self._uniform(ink, 0.02, 0.27) * self._some(ink, 0.9)
        if self._happens(0.45):  # salt and pepper
            where, share = self._random(batch, 1, *size), self._uniform(ink, 0, 0.028) * self._some(ink, 0.7)
            small = torch.where(where < share, (where < share / 2).float(), small)
        return F.interpolate(small, size=(height, width), mode="bilinear" if self._happens(0.4) else "bicubic")

    def _colour(self, ink: Tensor, drawn: bool) -> Tensor:
        """Add colours of paper and ink (sometimes light on dark), shades, specks, noise, and the blocks of a coarse JPEG."""
        paper, print_ = self._uniform(ink, 0.7, 1.0, 3, 1, 1), self._uniform(ink, 0, 0.4, 3, 1, 1)
        paper = torch.where(self._some(ink, 0.14), paper * self._uniform(ink, 0.45, 0.8), paper)
        print_ = torch.where(self._some(ink, 0.08), print_ + 0.25, print_)
        plain = self._some(ink, 0.4 if drawn else 0.7)
        paper = torch.where(plain, torch.ones_like(paper), paper)
        print_ = torch.where(plain, self._uniform(ink, 0, 0.2) * torch.ones_like(print_), print_)
        inverse = self._some(ink, 0.12)
        paper, print_ = torch.where(inverse, print_, paper), torch.where(inverse, paper, print_)
        stains = (self._smooth(ink, 4, 4) - 0.5) * self._uniform(ink, 0, 0.25) * self._some(ink, 0.4)
        shade = self._smooth(ink, 3, 3) * self._uniform(ink, 0, 0.55) * self._some(ink, 0.2)
        specks = (self._random(*ink.shape) < self._uniform(ink, 0, 0.008)) * self._some(ink, 0.18)
        ink = torch.where(specks, 1 - ink, ink)
        picture = (paper + stains + (print_ - paper) * ink) * (1 - shade)
        picture = picture + self._normal(ink) * self._uniform(ink, 0, 0.12) * self._some(ink, 0.5)
        if self._happens(0.15):
            blocks = F.interpolate(F.avg_pool2d(picture, 4, 4, ceil_mode=True), scale_factor=4)
            picture = picture + (blocks[:, :, : ink.shape[2], : ink.shape[3]] - picture) * self._uniform(ink, 0, 0.35)
        return picture


def generator(device: Any, seed: int) -> torch.Generator:
    made = torch.Generator(device=device)
    made.manual_seed(seed)
    return made
