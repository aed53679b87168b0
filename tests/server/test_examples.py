"""examples/call_server.py against a server on loopback. openai-python is in the group ``clients``."""

import runpy

import pytest

from tests.server.fake import TEXT
from tests.server.started import Started


def test_the_example_prints_what_the_server_sends(
    server: Started, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openai")
    monkeypatch.setattr("sys.argv", ["call_server.py", server.url])
    runpy.run_path("examples/call_server.py", run_name="__main__")
    assert capsys.readouterr().out == TEXT + "\n"
