"""``mindnlp-ocr serve`` and ``tools/serve.py`` as a user starts and stops them."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml

from mindnlp_ocr import cli
from mindnlp_ocr.server.command import main
from mindnlp_ocr.server.options import open_to_all, parser, server_config
from tests.conftest import ROOT


def test_it_starts_answers_and_stops() -> None:
    command = [sys.executable, "tools/serve.py", "--port", "0", "--no-warm-up", "--log-format", "json"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stderr is not None
    try:
        url = ""
        for line in process.stderr:
            event = json.loads(line) if line.startswith("{") else {"event": line}  # MindSpore warns in its own way
            url = event.get("url", url)
            if event["event"] == "ready":
                break
        assert url.startswith("http://127.0.0.1:")
        with httpx.Client(base_url=url, transport=httpx.HTTPTransport(retries=5), timeout=60) as http:
            assert http.get("/health").status_code == 200
            body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}
            assert http.post("/v1/chat/completions", json=body).json()["usage"]["completion_tokens"] <= 3
        process.send_signal(signal.SIGTERM)
        rest = [json.loads(line) for line in process.stderr if line.startswith("{")]
        assert process.wait(60) == -signal.SIGTERM  # after all that ran was answered, as uvicorn has it
        assert any(event["event"] == "request" and event["status"] == 200 for event in rest)
        assert any(event["event"] == "stopped" for event in rest)
    finally:
        process.kill()
        process.wait()


def test_a_port_that_is_taken_is_said_before_the_model_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert cli.main(["serve", "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot be used" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--port", "70000"], "--port is 70000"),
        (["--max-images", "0"], "--max-images is 0: use 1 or more"),
        (["--max-waiting", "-1"], "--max-waiting is -1: use 0 or more"),
        (["--api-key-file", "no/such/file"], "cannot be read"),
        (["--documents-dir", "README.md/x", "--port", "0", "--no-warm-up"], "--documents-dir README.md/x cannot be used"),
    ],
)
def test_what_nothing_can_be_served_with_is_refused(
    options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options) == 2
    assert says in capsys.readouterr().err


def test_other_machines_may_call_without_a_key_only_with_a_warning(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a-key-that-is-long-enough\n", encoding="utf-8")
    asked = parser().parse_args
    assert not open_to_all(server_config(asked([])))
    assert open_to_all(server_config(asked(["--host", "0.0.0.0"])))
    assert not open_to_all(server_config(asked(["--host", "0.0.0.0", "--api-key-file", str(keys)])))


def test_limits_of_the_command_line_reach_the_server() -> None:
    options = ["--max-body-mb", "3", "--max-image-mpixels", "2", "--allow-url", "a.example", "--documents-quota-mb", "5"]
    config = server_config(parser().parse_args(options))
    assert (config.max_body_bytes, config.max_image_pixels, config.url_hosts) == (3 << 20, 2_000_000, ("a.example",))
    assert config.document_quota_bytes == 5 << 20


def test_without_the_extra_the_command_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['fastapi'] = None; import mindnlp_ocr; from mindnlp_ocr import cli; "
        "sys.exit(cli.main(['serve', '--port', '0']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the server needs fastapi")


def test_files_of_the_deployment_are_well_formed() -> None:
    """They are not run here: there is no container engine."""
    folder = ROOT / "deploy"
    compose = yaml.safe_load((folder / "compose.yaml").read_text(encoding="utf-8"))
    mounted = [volume.split(":")[0] for service in compose["services"].values() for volume in service.get("volumes", [])]
    assert len(mounted) == 4
    assert all((folder / name).is_file() for name in mounted)
    assert compose["services"]["ocr"]["read_only"]
    docker = (folder / "Dockerfile").read_text(encoding="utf-8")
    assert "USER 10001" in docker
    assert "HEALTHCHECK" in docker


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    import re

    from mindnlp_ocr.server.metrics import Metrics

    metrics = Metrics("m", lambda: dict.fromkeys(("running", "waiting", "usage"), 0), lambda: {"done": 0})
    names = {sample.name for family in metrics.registry.collect() for sample in family.samples}
    names |= {name for family in metrics.registry.collect() for name in (family.name, f"{family.name}_total")}
    names |= {f"{family.name}_bucket" for family in metrics.registry.collect() if family.type == "histogram"}
    board = json.loads((ROOT / "deploy" / "grafana.json").read_text(encoding="utf-8"))
    asked = {
        name
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"[a-z_]+:[a-z0-9_]+|http_[a-z_]+", target["expr"])
    }
    assert len(asked) > 10
    assert asked <= names
