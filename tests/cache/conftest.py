"""A cache manager with a manual clock."""

from typing import Any

import pytest

from mindnlp_ocr.cache.manager import CacheManager
from tests.cache.serving import SLOT, Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(clock: Clock) -> Any:
    """A manager with a clock that stands still; room for ``features`` bytes beside the slots."""

    def make(slots: int = 3, features: int = 100, **settings: Any) -> CacheManager:
        return CacheManager(slots, SLOT, slots * SLOT + features, clock=clock, **settings)

    return make
