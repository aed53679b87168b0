"""A second task for layouts, in training only: each image token predicts the region in which it lies.

The answer for a page contains some 25 boxes, digit by digit, which teaches positions slowly. This task also asks each of the
1,369 image tokens. From the output of the vision tower, which knows no absolute positions, a linear head predicts the kind
of a token's region and the distances to its edges, as in FCOS (Tian et al. 2019, arXiv:1904.01355). From the decoder's
states of the same tokens, where positions are known, another head predicts the digits of the edges. The heads are not
exported.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.model import Config, States
from training.regions import KINDS

DIGITS = 3  # of an edge, from 000 to 999
LEAST = 0.1  # of the token or the region, whichever is smaller, must be common to both


def owners(regions: Tensor, rows: int, columns: int) -> Tensor:
    """The region with which each token has the most in common, or -1: [batch, tokens].

    Args:
        regions: kind, left, top, right, bottom in thousandths of the page [batch, regions, 5].
    """
    lefts, tops = (torch.arange(count, device=regions.device) * (1000 / count) for count in (columns, rows))
    _, left, top, right, bottom = regions.float().unbind(-1)

    def shared(starts: Tensor, step: float, low: Tensor, high: Tensor) -> Tensor:
        ends = starts + step
        return (torch.minimum(ends, high[..., None]) - torch.maximum(starts, low[..., None])).clamp(min=0)

    across, down = shared(lefts, 1000 / columns, left, right), shared(tops, 1000 / rows, top, bottom)
    common = (down[..., :, None] * across[..., None, :]).flatten(2)  # [batch, regions, tokens]
    smaller = ((right - left) * (bottom - top)).clamp(max=1e6 / rows / columns, min=1)
    most, owner = (common * (regions[..., :1] >= 0)).max(1)
    enough = most > LEAST * smaller.gather(1, owner)
    return torch.where(enough, owner, -1)


def squeezed(x: Tensor) -> Tensor:
    """The logarithm of the size, with the sign: short distances exactly, long ones roughly."""
    return x.sign() * torch.log1p(x.abs())


class Places(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.near = nn.Sequential(nn.LayerNorm(config.hidden), nn.Linear(config.hidden, len(KINDS) + 1 + 4))
        self.edges = nn.Sequential(nn.LayerNorm(config.hidden), nn.Linear(config.hidden, 4 * DIGITS * 10))

    def forward(self, states: States, regions: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
        """The mean losses of kinds, distances and digits; each region counts by the root of its number of tokens."""
        owner = owners(regions, rows, columns)
        inside = owner >= 0
        row, column = inside.nonzero(as_tuple=True)
        mine = regions[row, owner[row, column]]  # [owned, 5]
        kinds = torch.zeros_like(owner).masked_scatter(inside, mine[:, 0] + 1)
        near = self.near(states.seen).float()
        kind = F.cross_entropy(near[..., :-4].flatten(0, 1), kinds.flatten())

        counts = torch.zeros(regions.shape[:2], device=regions.device)
        counts.index_put_((row, owner[row, column]), torch.ones_like(row, dtype=counts.dtype), accumulate=True)
        weight = counts[row, owner[row, column]].rsqrt()
        weight = weight / weight.sum().clamp(min=1e-6)

        middle = torch.stack((column % columns + 0.5, column // columns + 0.5), -1)  # in tokens
        size = torch.tensor((columns, rows), device=regions.device)
        edges = mine[:, 1:]
        wanted = squeezed(edges / 1000 * size.repeat(2) - middle.repeat(1, 2))
        distance = (F.smooth_l1_loss(near[row, column, -4:], wanted, beta=0.05, reduction="none").mean(-1) * weight).sum()

        found = self.edges(states.placed[row, column]).float().view(-1, 10)
        digits = torch.stack((edges // 100, edges // 10 % 10, edges % 10), -1).reshape(-1)
        digit = (F.cross_entropy(found, digits, reduction="none").view(len(mine), -1).mean(-1) * weight).sum()
        return kind, distance, digit
