"""The API's own description, and what schemathesis makes of it: every operation, no answer of 500."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.server.fake import FakeModel
from tests.server.started import Started, started

schemathesis = pytest.importorskip("schemathesis")
CASES = int(os.environ.get("MINDNLP_OCR_FUZZ", "40"))


@pytest.fixture(scope="module")
def described() -> Iterator[Started]:
    with started(FakeModel(text="Yes")) as running:
        yield running


def test_no_operation_of_the_description_fails(described: Started) -> None:
    api = schemathesis.openapi.from_url(described.url + "/openapi.json")
    operations = [result.ok() for result in api.get_all_operations()]
    assert len(operations) > 12
    for operation in operations:

        @settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def attempt(case: Any) -> None:
            answer = case.call(timeout=30)
            assert answer.status_code < 500, answer.text

        attempt()
