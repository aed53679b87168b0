"""The part of the language model on one rank: heads and a share of the MLP (Shoeybi et al. 2019, arXiv:1909.08053).

The outputs of q, k, v, gate and up are split, and the inputs of o and down, whose results are summed over the ranks.
Every rank holds the whole vision tower, embedding, norms and head.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from mindnlp_ocr.config import ModelConfig
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.weights.quantize import GROUP, Quantized, Source, WeightDtype, dequantize

LAYERS = "model.layers."
BY_OUTPUT = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
BY_INPUT = ("o_proj", "down_proj")


class RankConfig(ModelConfig):
    """The configuration of the part on one rank, which has fewer heads of the same size."""

    ranks: int

    @property
    def head_dim(self) -> int:
        return self.hidden_size // (self.num_attention_heads * self.ranks)


@dataclass(frozen=True)
class Split:
    """Part ``rank`` of ``ranks``."""

    rank: int
    ranks: int

    def check(self, config: ModelConfig) -> None:
        """Check that the network can be divided among the ranks.

        Raises:
            SetupError: the network cannot be divided.
        """
        for what, size in (
            ("attention heads", config.num_attention_heads),
            ("key-value heads", config.num_key_value_heads),
            ("inner values of the MLP", config.intermediate_size),
        ):
            if size % self.ranks:
                raise SetupError(
                    f"tensor_parallel is {self.ranks}: the checkpoint has {size} {what}: use a divisor of this number",
                    code="parts_indivisible",
                )

    def check_dtype(self, config: ModelConfig, dtype: WeightDtype) -> None:
        """Check that weights of this dtype are rounded in the same way in parts as a whole.

        Raises:
            SetupError: a part would split a group of quantized weights.
        """
        for width in (config.hidden_size, config.intermediate_size):
            if dtype == "int8" and self.ranks > 1 and width // self.ranks % GROUP:
                raise SetupError(
                    f"tensor_parallel is {self.ranks}: int8 weights have a scale for {GROUP} inputs, and {width} do not "
                    "divide into whole groups: use dtype bf16, fp16 or fp32",
                    code="int8_indivisible",
                )

    def config(self, config: ModelConfig) -> ModelConfig:
        """Return the configuration of this rank. For errors, see :meth:`check`."""
        if self.ranks == 1:
            return config
        self.check(config)
        parts = ("num_attention_heads", "num_key_value_heads", "intermediate_size")
        sizes = {name: getattr(config, name) // self.ranks for name in parts}
        return RankConfig(**{**dict(config), **sizes, "ranks": self.ranks})  # a dump would lose the type of ``vision``

    def weights(self, weights: Mapping[str, Source]) -> Mapping[str, Source]:
        """Return the weights of this rank under their published names."""
        return weights if self.ranks == 1 else _RankWeights(weights, self)

    def of(self, size: int) -> slice:
        part = size // self.ranks
        return slice(self.rank * part, (self.rank + 1) * part)


class _RankWeights(Mapping[str, Source]):
    """A view of weights that cuts arrays on demand."""

    def __init__(self, weights: Mapping[str, Source], split: Split) -> None:
        self._weights, self._split = weights, split

    def __getitem__(self, name: str) -> Source:
        weight = self._weights[name]
        layer = name.rsplit(".", 2)[-2] if name.startswith(LAYERS) else ""
        if layer in BY_OUTPUT:
            return _outputs(weight, self._split.of(weight.shape[0]))
        if layer in BY_INPUT and name.endswith(".weight"):
            return _inputs(weight, self._split.of(weight.shape[1]))
        return weight

    def __contains__(self, name: object) -> bool:
        return name in self._weights

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def _outputs(weight: Source, rows: slice) -> Source:
    return Quantized(weight.q[rows], weight.scales[rows]) if isinstance(weight, Quantized) else weight[rows]


def _inputs(weight: Source, columns: slice) -> Source:
    if not isinstance(weight, Quantized):
        return np.ascontiguousarray(weight[:, columns])
    if columns.start % GROUP or columns.stop % GROUP:
        return np.ascontiguousarray(dequantize(weight)[:, columns])
    groups = slice(columns.start // GROUP, columns.stop // GROUP)
    return Quantized(np.ascontiguousarray(weight.q[:, columns]), np.ascontiguousarray(weight.scales[:, groups]))
