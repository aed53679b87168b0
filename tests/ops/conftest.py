"""A fixture that runs tests with every instruction set of this processor."""

from collections.abc import Iterator

import pytest

from mindnlp_ocr.ops import native


def _tiers() -> Iterator[object]:
    """All instruction sets; those that this processor would not choose are in the slow tier."""
    chosen = native.instruction_sets()[-1] if native.available()[0] else None
    for name in native.INSTRUCTION_SETS:
        yield pytest.param(name, marks=[] if name == chosen else [pytest.mark.slow])


@pytest.fixture(params=_tiers())
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    try:
        native.use_instruction_set(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    native.use_instruction_set(native.instruction_sets()[-1])
