"""Tests of the thread pool of our CPU operators, which are called as MindSpore calls them, but from any thread."""

import ctypes
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mindnlp_ocr.ops import native
from mindnlp_ocr.ops.operators import CpuOperators
from tests.ops import direct

pytestmark = pytest.mark.skipif(not native.available()[0], reason=native.available()[1])


def call(name: str, *inputs: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    return direct.call(native.LIBRARY, name, *inputs, shape=shape)


class Work:
    """Products, norms and attention of one seed, and their answers on one thread."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.x, weight = random.standard_normal((40, 64), np.float32), random.standard_normal((200, 64), np.float32)
        self.packed, self.bias = CpuOperators().pack(weight), random.standard_normal(200, np.float32)
        self.scale, self.eps = random.standard_normal(64, np.float32), np.array([1e-6], np.float32)
        self.heads, self.ends = random.standard_normal((90, 2, 16), np.float32), np.array([0, 30, 90], np.int32)
        native.use_threads(1)
        self.expected = self.answers()
        native.use_threads(0)
        product = self.x.astype(np.float64) @ weight.T.astype(np.float64) + self.bias
        np.testing.assert_allclose(self.expected[0], product, atol=1e-4)

    def answers(self) -> list[NDArray[np.float32]]:
        return [
            call("Linear", self.x, self.packed, self.bias, np.array([40], np.int32), shape=(40, 200)),
            call("RmsNorm", self.x, self.scale, self.eps, shape=(40, 64)),
            call("FlashVision", self.heads, self.heads, self.heads, self.ends, shape=(90, 2, 16)),
        ]

    def check(self) -> None:
        for answer, expected in zip(self.answers(), self.expected, strict=True):
            assert answer.tobytes() == expected.tobytes()


@pytest.fixture(scope="module")
def works() -> list[Work]:
    return [Work(seed) for seed in range(4)]


@pytest.fixture(autouse=True)
def _as_many_threads_as_cores() -> Iterator[None]:
    yield
    native.use_threads(0)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_calls_from_several_threads_of_python_at_once_give_right_answers(works: list[Work], threads: int) -> None:
    native.use_threads(threads)
    with ThreadPoolExecutor(len(works)) as pool:
        for done in [pool.submit(work.check) for _ in range(50) for work in works]:
            done.result()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_many_small_calls_in_a_row_give_right_answers(threads: int) -> None:
    native.use_threads(threads)
    random = np.random.default_rng(0)
    rows, scale, eps = random.standard_normal((3, 50, 3, 8), np.float32), np.ones(8, np.float32), np.ones(1, np.float32)
    expected = rows / np.sqrt((rows**2).mean(-1, keepdims=True) + 1)
    for i in range(2000 if threads < 3 else 200):  # more threads than cores wait for one another
        at = i % 3, i % 50
        np.testing.assert_allclose(call("RmsNorm", rows[at], scale, eps, shape=(3, 8)), expected[at], atol=1e-6)


def test_the_number_of_threads_goes_up_and_down_between_calls(works: list[Work]) -> None:
    for round_, threads in enumerate([1, 2, 1, 3, 2, 7, 1, 5, 3, 0, 2, 6, 4, 1, 2] * 3):
        native.use_threads(threads)
        works[round_ % len(works)].check()


def test_the_number_of_threads_goes_up_and_down_while_others_call(works: list[Work]) -> None:
    with ThreadPoolExecutor(len(works)) as pool:
        calls = [pool.submit(work.check) for _ in range(25) for work in works]
        for threads in [1, 3, 2, 5, 1, 4, 2, 0] * 20:
            native.use_threads(threads)
            works[0].check()
        for done in calls:
            done.result()


def test_as_many_threads_are_used_as_asked_for() -> None:
    library = ctypes.CDLL(str(native.LIBRARY))
    counts = []
    for threads in (1, 3, 255, 1000, 0):
        native.use_threads(threads)
        counts.append(library.ThreadCount())
    assert counts[:4] == [1, 3, 255, 255]
    assert 1 <= counts[4] <= 255


def answer_of_a_forked_child(work: Work, seconds: float = 20) -> int | None:
    """The child's exit code: 0 where its answers are right; None where it gave none in time."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work.check()
            code = 0
        finally:
            os._exit(code)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_forked_child_computes_too(works: list[Work], threads: int) -> None:
    native.use_threads(threads)
    works[0].check()
    assert answer_of_a_forked_child(works[0]) == 0
    works[0].check()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_forked_while_other_threads_compute_computes_too(works: list[Work]) -> None:
    native.use_threads(2)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(works[1].check) for _ in range(400)]
        codes = [answer_of_a_forked_child(works[0]) for _ in range(5)]
        for done in calls:
            done.result()
    assert codes == [0] * 5


def test_workers_that_are_left_over_sleep(works: list[Work]) -> None:
    """They run neither at a call of fewer threads nor between calls."""
    native.use_threads(8)
    works[0].check()
    native.use_threads(2)
    works[0].check()
    time.sleep(0.2)
    before = switches()
    for _ in range(200):
        works[0].check()
    ran = [1 for thread, count in switches().items() if count - before.get(thread, 0) > 20]
    assert len(ran) <= 4  # the calling thread, its one worker, and what Python or MindSpore had to do meanwhile


def switches() -> dict[str, int]:
    """How often each thread of this process gave up its core by itself."""
    found = {}
    for status in Path("/proc/self/task").glob("*/status"):
        line = next(line for line in status.read_text().splitlines() if line.startswith("voluntary_ctxt_switches"))
        found[status.parent.name] = int(line.split()[1])
    return found
