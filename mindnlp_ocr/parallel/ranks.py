"""Ranks that compute one network together (tensor parallel), over MindSpore's collectives.

MindSpore 2.7.2 sums and gathers float32 alone on a CPU, which holds whole numbers up to 2**24 exactly.
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
    """This process among those that run the same requests in lockstep; by default it is alone.

    A rank that leaves the step of the others hangs them: so what each sees of its own machine is agreed upon.

    Attributes:
        rank: of this process.
        count: of all.
        split: the part of the network that this process has.
        failure: what it means that a device fails. Alone it is the page's fault; here the others would wait for ever.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count, self.split = rank, count, Split(rank, count)
        self.failure: type[PageError | SetupError] = PageError if count == 1 else SetupError

    @classmethod
    def join(cls, count: int) -> "Ranks":
        """Meet the others. The device has been set.

        Raises:
            SetupError: msrun did not start ``count`` workers, or they do not meet.
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
                f"tensor_parallel is {count}: the workers did not meet ({first_line}): see their logs"
            ) from error

    def gather(self, value: float) -> NDArray[np.float32]:
        """The values of all ranks."""
        if self.count == 1:
            return np.array([value], np.float32)
        values: NDArray[np.float32] = ops.AllGather()(Tensor([value], ms.float32)).asnumpy()
        return values

    @contextmanager
    def agreement(self) -> Iterator[list[PrefixKey]]:
        """What is read meanwhile and put into the list, all ranks have read alike. Errors as :meth:`agree`."""
        read: list[PrefixKey] = []
        try:
            yield read
        except PageError:
            self.agree(None)
            raise
        self.agree(read[0])

    def agree(self, read: PrefixKey | None) -> None:
        """Whether all ranks have the same prompt; None: this one could not read it, and has an error to raise.

        Raises:
            PageError: on those that have, where another has not.
        """
        if self.count == 1:
            return
        content = b"" if read is None else b"".join((read.token_ids.tobytes(), *(image.digest for image in read.images)))
        values = self.gather(0 if read is None else 1 + zlib.crc32(content) % (1 << 23))
        if read is None:
            return
        if (failed := np.flatnonzero(values == 0)).size:
            raise PageError(f"rank {failed[0]} of {self.count} could not read it: see its log")
        if (values != values[0]).any():
            raise PageError("the ranks read different pixels or prompts: give all machines the same files and packages")

    def check_store(self) -> None:
        """Whether a cache may be saved and loaded.

        Raises:
            SetupError: this rank has a part of each head's keys, under the name of the whole.
        """
        if self.count > 1:
            raise SetupError(f"tensor_parallel is {self.count}: each rank has its own part of the cache, leave it unsaved")

    def least(self, value: int) -> int:
        """The smallest value of all ranks; near enough for bytes."""
        return value if self.count == 1 else int(self.gather(value).min())


def check_ranks(count: int) -> None:
    """Whether msrun started so many workers.

    Raises:
        SetupError: it did not.
    """
    if count < 1:
        raise SetupError(f"tensor_parallel is {count}: give 1 or more")
    if count == 1:
        return
    launch = Launch.from_environment()
    if launch is None:
        raise SetupError(f"tensor_parallel is {count}, but msrun did not start this: run {EXAMPLE.format(count)} ...")
    if launch.ranks != count:
        raise SetupError(f"tensor_parallel is {count}, but msrun started {launch.ranks} workers: give {launch.ranks}")


class _Sums(nn.Cell):
    """Products whose inputs are split over the ranks, and the choice that all make alike; before a base in Operators."""

    def split(self, ranks: Ranks) -> Any:
        self.all_reduce = ops.AllReduce()
        self.first = Tensor([1.0 if ranks.rank == 0 else 0.0], ms.float32)
        return self

    def linear_add(self, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, rows: Tensor) -> Tensor:
        return residual + self.all_reduce(self.linear(x, weight, bias, rows))

    def choose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Rank 0 chooses: processors of two kinds may round a near tie differently."""
        tokens, log_probabilities = most_likely(logits)
        tokens = self.all_reduce(tokens.astype(ms.float32) * self.first).astype(ms.int32)
        return tokens, self.all_reduce(log_probabilities * self.first)


class SplitOperators(_Sums, Operators):
    """MindSpore's."""


class SplitHalfOperators(_Sums, HalfOperators):
    """MindSpore's, over weights of 16 bits."""


class SplitCpuOperators(_Sums, CpuOperators):
    """Ours."""


def split_operators(operators: Operators, ranks: Ranks) -> Operators:
    """Those of the language model, where it is split; on one rank, as they are."""
    if ranks.count == 1:
        return operators
    own: Any = SplitOperators()
    if isinstance(operators, CpuOperators):
        own = SplitCpuOperators(operators.weight_dtype)
    elif isinstance(operators, HalfOperators):
        own = SplitHalfOperators("bf16" if operators.weight_dtype == "bf16" else "fp16")
    return own.split(ranks)  # type: ignore[no-any-return]
