"""Tests of errors and their codes: pickling, and where the command line and the server show them."""

import json
import pickle
from pathlib import Path

import pytest

from mindnlp_ocr import cli
from mindnlp_ocr.engine.overflow import overflowed
from mindnlp_ocr.engine.scheduler import DeadlineError, QueueFullError
from mindnlp_ocr.errors import BatchError, OCRError, PageError, SetupError, coded, described
from mindnlp_ocr.server.errors import ApiError, BusyError, answer, of_engine

ERRORS = [
    OCRError("without a code"),
    SetupError("attention 'x' is unknown: use auto", code="attention_unknown"),
    PageError("a.png is damaged: save it again", "image_damaged"),
    QueueFullError("8 requests wait: try again later", code="queue_full"),
    overflowed("the head", "fp16"),
    BatchError([PageError("a.png is missing", code="file_missing"), None]),
    ApiError("n is 9: request fewer", 413, "n", "too_many_choices", {"X": "1"}),
    BusyError("8 requests wait: try again later", 3.0),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_an_error_is_the_same_in_another_process(error: OCRError, protocol: int) -> None:
    copy = pickle.loads(pickle.dumps(error, protocol))
    assert type(copy) is type(error)
    assert (str(copy), copy.code, copy.args) == (str(error), error.code, error.args)
    assert vars(copy).keys() == vars(error).keys()


def test_the_code_is_no_part_of_the_message() -> None:
    error = PageError("a.png is damaged: save it again", code="image_damaged")
    assert str(error) == "a.png is damaged: save it again"
    assert coded(error, error.code) == "a.png is damaged: save it again [image_damaged]"
    assert described(error) == {"error": "a.png is damaged: save it again", "error_code": "image_damaged"}
    assert BatchError([error]).code == "pages_failed"


def test_an_error_without_a_code_is_printed_as_it_is() -> None:
    assert OCRError("a message").code == ""
    assert coded("a message", "") == coded("a message", None) == "a message"
    assert described(OCRError("a message")) == {"error": "a message", "error_code": None}
    assert described(None) == {"error": None, "error_code": None}


def test_the_command_line_prints_the_code_of_an_error_in_the_setup(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert capsys.readouterr().err.endswith(" [document_not_named]\n")


def test_the_command_line_prints_and_writes_the_code_of_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.json"
    assert cli.main([str(tmp_path / "gone.png"), "--format", "json", "--output", str(output)]) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.endswith(" [file_missing]")
    [document] = json.loads(output.read_text(encoding="utf-8"))["results"]
    assert line == f"error: {document['image']}: {document['error']} [{document['error_code']}]"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (PageError("x", code="context_length_exceeded"), 400),
        (DeadlineError("x", code="deadline_exceeded"), 504),
        (QueueFullError("x", code="queue_full"), 429),
    ],
    ids=lambda value: getattr(value, "code", value),
)
def test_the_server_answers_with_the_code_of_the_engine(error: PageError, status: int) -> None:
    response = answer(of_engine(error))
    assert response.status_code == status
    assert json.loads(bytes(response.body))["error"]["code"] == error.code
