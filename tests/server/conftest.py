"""A server with a model that answers at once, for what is HTTP alone."""

from collections.abc import Iterator

import httpx
import pytest

from tests.server.fake import FakeModel
from tests.server.started import Started, started


@pytest.fixture
def fake() -> FakeModel:
    return FakeModel()


@pytest.fixture
def server(fake: FakeModel) -> Iterator[Started]:
    with started(fake) as running:
        yield running


@pytest.fixture
def http(server: Started) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=20) as client:
        yield client
