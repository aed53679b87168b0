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
    """Create a manager with a manual clock and room for ``features`` bytes in addition to the slots."""

    def make(slots: int = 3, features: int = 100, **settings: Any) -> CacheManager:
        return CacheManager(slots, SLOT, slots * SLOT + features, clock=clock, **settings)

    return make
