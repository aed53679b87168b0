"""Tensor parallelism: ranks that compute one network together, with MindSpore's collectives.

On a CPU, MindSpore 2.7.2 sums and gathers only float32, which represents whole numbers up to 2**24 exactly.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from numpy.typing import NDArray

from mindnlp_ocr.cache.keys import PrefixKey
from mindnlp_ocr.errors import PageError, SetupError
from mindnlp_ocr.ops.half import HalfOperators
from mindnlp_ocr.ops.operators import CpuOperators, Operators, most_likely
from mindnlp_ocr.parallel.launch import EXAMPLE, Launch
from mindnlp_ocr.weights.split import Split


class Ranks:
    """This process among the ranks that run the same requests in lockstep; by default, there is one rank.

    A rank that leaves a step blocks the others, so the ranks agree on everything that depends on their own machine.

    Attributes:
        rank: rank of this process.
        count: number of ranks.
        split: the part of the network on this rank.
        failure: exception class for a failure of the device. With one rank, it affects one page; with several ranks, it ends
            the run, since the others would wait forever.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count, self.split = rank, count, Split(rank, count)
        self.failure: type[PageError | SetupError] = PageError if count == 1 else SetupError

    @classmethod
    def join(cls, count: int) -> "Ranks":
        """Connect to the other ranks. The device must be set before.

        Raises:
            SetupError: msrun did not start ``count`` workers, or they could not connect.
        """
        check_ranks(count)
        if count == 1:
            return cls()
        from mindspore import communication

        try:
            communication.init()
            return cls(communication.get_rank(), communication.get_group_size())
        except RuntimeError as error:
            first_line = str(error).strip().splitlines()[0]
            raise SetupError(
                f"tensor_parallel is {count}: the workers could not connect ({first_line}): see their logs",
                code="ranks_unconnected",
            ) from error

    def gather(self, value: float) -> NDArray[np.float32]:
        """Return the values of all ranks."""
        if self.count == 1:
            return np.array([value], np.float32)
        values: NDArray[np.float32] = ops.AllGather()(Tensor([value], ms.float32)).asnumpy()
        return values

    @contextmanager
    def agreement(self) -> Iterator[list[PrefixKey]]:
        """Check that all ranks append the same prompt to the list while the context is open. See :meth:`agree` for
        errors."""
        read: list[PrefixKey] = []
        try:
            yield read
        except PageError:
            self.agree(None)
            raise
        self.agree(read[0])

    def agree(self, read: PrefixKey | None) -> None:
        """Check that all ranks have the same prompt. None: this rank could not read it, and raises its own error.

        Raises:
            PageError: another rank could not read the prompt, or read a different one.
        """
        if self.count == 1:
            return
        content = b"" if read is None else b"".join((read.token_ids.tobytes(), *(image.digest for image in read.images)))
        values = self.gather(0 if read is None else 1 + zlib.crc32(content) % (1 << 23))
        if read is None:
            return
        if (failed := np.flatnonzero(values == 0)).size:
            raise PageError(f"rank {failed[0]} of {self.count} could not read the page: see its log", code="rank_failed")
        if (values != values[0]).any():
            raise PageError(
                "the ranks read different pixels or prompts: give all machines the same files and packages",
                code="ranks_differ",
            )

    def check_store(self) -> None:
        """Check that a cache can be saved and loaded.

        Raises:
            SetupError: there are several ranks, each with only its own part of the cache.
        """
        if self.count > 1:
            raise SetupError(
                f"tensor_parallel is {self.count}: each rank has only its own part of the cache, so it cannot be saved",
                code="cache_in_parts",
            )

    def least(self, value: int) -> int:
        """Return the smallest value of all ranks, with the precision of float32."""
        return value if self.count == 1 else int(self.gather(value).min())


def check_ranks(count: int) -> None:
    """Check that msrun started ``count`` workers.

    Raises:
        SetupError: msrun did not start this number of workers.
    """
    if count < 1:
        raise SetupError(f"tensor_parallel is {count}: use 1 or more", code="not_positive")
    if count == 1:
        return
    launch = Launch.from_environment()
    if launch is None:
        raise SetupError(
            f"tensor_parallel is {count}, but msrun did not start this process: run {EXAMPLE.format(count)} ...",
            code="msrun_missing",
        )
    if launch.ranks != count:
        raise SetupError(
            f"tensor_parallel is {count}, but msrun started {launch.ranks} workers: use {launch.ranks}",
            code="msrun_count_differs",
        )


class _Sums(nn.Cell):
    """Mixin for operators that sums products with split inputs over the ranks, and makes all ranks choose the same token."""

    def split(self, ranks: Ranks) -> Any:
        self.all_reduce = ops.AllReduce()
        self.first = Tensor([1.0 if ranks.rank == 0 else 0.0], ms.float32)
        return self

    def linear_add(self, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, rows: Tensor) -> Tensor:
        return residual + self.all_reduce(self.linear(x, weight, bias, rows))

    def choose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Use the choice of rank 0, since different processors may round near ties differently."""
        tokens, log_probabilities = most_likely(logits)
        tokens = self.all_reduce(tokens.astype(ms.float32) * self.first).astype(ms.int32)
        return tokens, self.all_reduce(log_probabilities * self.first)


class SplitOperators(_Sums, Operators):
    """Split operators of MindSpore."""


class SplitHalfOperators(_Sums, HalfOperators):
    """Split operators of MindSpore with 16-bit weights."""


class SplitCpuOperators(_Sums, CpuOperators):
    """Split operators of our CPU library."""


def split_operators(operators: Operators, ranks: Ranks) -> Operators:
    """Return the split form of operators; with one rank, return them unchanged."""
    if ranks.count == 1:
        return operators
    own: Any = SplitOperators()
    if isinstance(operators, CpuOperators):
        own = SplitCpuOperators(operators.weight_dtype)
    elif isinstance(operators, HalfOperators):
        own = SplitHalfOperators("bf16" if operators.weight_dtype == "bf16" else "fp16")
    return own.split(ranks)  # type: ignore[no-any-return]
