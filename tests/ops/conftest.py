"""A fixture that runs tests with every instruction set of this processor."""

from collections.abc import Iterator

import pytest

from mindnlp_ocr.ops import native


@pytest.fixture(params=native.INSTRUCTION_SETS)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    try:
        native.use_instruction_set(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    native.use_instruction_set(native.instruction_sets()[-1])
