"""Two replicas behind one address, started by the command on a real Ray; a plain server beside them answers the same."""

import asyncio
import io
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest
import ray
import yaml
from PIL import Image
from ray import serve
from ray.util import list_named_actors

from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
from mindnlp_ocr.server.app import Server
from mindnlp_ocr.server.command import main
from mindnlp_ocr.server.config import ServerConfig
from mindnlp_ocr.server.on_ray import NAME
from mindnlp_ocr.server.options import parser
from mindnlp_ocr.server.replicas import Reader
from mindnlp_ocr.server.routing import session_of
from tests.cluster.runs import free_port
from tests.conftest import ROOT
from tests.server.shapes import page
from tests.server.started import Started, started, until

PATH = "/v1/chat/completions"
WORD = ROOT / "tests" / "pages" / "word_56x56.png"
LETTER = ROOT / "examples" / "letter.png"
HOST = [(b"host", b"localhost")]
SECONDS = 120
READER = f"SERVE_REPLICA::{NAME}#Reader#"


class Served:
    """A running command: where it listens, and what it logs."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stderr is not None
        self.process, self.log = process, []
        for line in process.stderr:
            self.log.append(line)
            if found := re.search(r"listening url=(\S+) replicas=2:2", line):
                self.url = found[1]
                return
        raise AssertionError("".join(self.log))


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        patch.delenv("LD_LIBRARY_PATH", raising=False)  # MindSpore sets it, which slows down processes started afterwards
        options = {"include_dashboard": False, "object_store_memory": 100 << 20, "log_to_driver": False}
        ray.init(num_cpus=2, logging_level="ERROR", namespace="tests", **options)
        command = [sys.executable, "-m", "mindnlp_ocr.cli", "serve", "--ray", ray.get_runtime_context().gcs_address]
        command += ["--replicas", "2", "--port", str(free_port()), "--no-warm-up", "--batch-size", "1"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        try:
            yield Served(process)
            process.send_signal(signal.SIGTERM)
            said = process.communicate(timeout=SECONDS)[1]
            assert process.returncode == 0, said
            assert said.splitlines()[-1].endswith("stopped")
        finally:
            process.kill()
            process.wait()
            ray.shutdown()


@pytest.fixture
def http(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=SECONDS) as client:
        yield client


@pytest.fixture(scope="module")
def plain(model: Qwen2VLModel) -> Iterator[Started]:
    with started(model) as running:
        yield running


def asked(content: bytes, **fields: Any) -> dict[str, Any]:
    return {"messages": page("Extract all text from this image.", content), **fields}


def replicas() -> list[str]:
    """The names of the replicas."""
    names = [actor["name"] for actor in list_named_actors(all_namespaces=True)]
    return sorted(name.removeprefix(READER) for name in names if name.startswith(READER))


def counted(pattern: str = rf'^http_requests_total{{handler="{PATH}",.*}} (\S+)') -> dict[str, int]:
    """What each replica has counted, as its own metrics say: by default the chat requests that it has answered."""
    found = {}
    for name in replicas():
        reader = serve.get_deployment_handle("Reader", NAME).options(stream=True, session_id=f"replica {name}")
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/metrics",
            "query_string": b"",
            "headers": [(b"host", b"localhost")],
        }
        text = b"".join(message.get("body", b"") for message in reader.remote(scope, b"")).decode()
        found[name] = sum(int(float(count)) for count in re.findall(pattern, text, re.MULTILINE))
    return found


def coloured(number: int) -> bytes:
    """A page that is no other's."""
    file = io.BytesIO()
    Image.new("RGB", (56, 56), (5 * number, 255 - 5 * number, 128)).save(file, "PNG")
    return file.getvalue()


def cached(answer: httpx.Response) -> int:
    tokens: int = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    return tokens


def test_a_page_that_is_sent_again_meets_its_cache_and_pages_are_spread(http: httpx.Client) -> None:
    pages = [coloured(number) for number in range(12)]
    before = counted()
    first = [http.post(PATH, json=asked(content, max_tokens=2)) for content in pages]
    assert [cached(answer) for answer in first] == [0] * len(pages)
    middle = counted()
    assert sorted(middle) == sorted(before)
    assert all(middle[name] > before[name] for name in before)
    for content in pages[-2:]:  # what was read last is still in a slot
        again = [http.post(PATH, json=asked(content, max_tokens=2)) for _ in range(4)]
        assert all(cached(answer) > 0 for answer in again)
    after = counted()
    assert sum(after.values()) - sum(middle.values()) == 8


def test_answers_are_those_of_a_plain_server(http: httpx.Client, plain: Started) -> None:
    for body in (
        asked(WORD.read_bytes(), logprobs=True),
        asked(LETTER.read_bytes(), max_tokens=12, temperature=1.0, seed=3, n=2),
        {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3},
        asked(b"no image"),
        {"messages": []},
    ):
        ours, theirs = http.post(PATH, json=body), httpx.post(plain.url + PATH, json=body, timeout=SECONDS)
        assert ours.status_code == theirs.status_code
        assert _bare(ours.json()) == _bare(theirs.json())
        assert set(ours.headers) - {"server"} == set(theirs.headers)  # Ray Serve names uvicorn
    for path in ("/v1/models", "/version", "/openapi.json", "/", "/web/app.js", "/nothing"):
        ours, theirs = http.get(path), httpx.get(plain.url + path)
        assert (ours.status_code, _created(ours.content)) == (theirs.status_code, _created(theirs.content))


def _bare(answer: dict[str, Any]) -> dict[str, Any]:
    """Without what differs from request to request."""
    usage = {name: value for name, value in answer.get("usage", {}).items() if name != "prompt_tokens_details"}
    return {name: value for name, value in answer.items() if name not in ("id", "created", "usage")} | {"usage": usage}


def _created(content: bytes) -> bytes:
    return re.sub(rb'"created":\d+', b"", content)


def test_what_is_streamed_comes_piece_by_piece_and_is_what_a_plain_server_streams(
    http: httpx.Client, plain: Started
) -> None:
    def streamed(url: str) -> list[dict[str, Any]]:
        body = asked(WORD.read_bytes(), stream=True, stream_options={"include_usage": True})
        with http.stream("POST", url, json=body) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: {")]
        return [_bare(json.loads(line) | {"usage": {}}) for line in lines]

    assert len(streamed(PATH)) > 3
    assert streamed(PATH) == streamed(plain.url + PATH)


def test_a_client_that_hangs_up_frees_its_replica(http: httpx.Client) -> None:
    content = coloured(40)
    with http.stream("POST", PATH, json=asked(content, stream=True, ignore_eos=True)) as answer:
        next(answer.iter_lines())
    until(lambda: sum(counted(r"^mindnlp_ocr:request_aborted_total{.*} (\S+)").values()) == 1)


def test_requests_go_on_to_another_replica_where_theirs_has_its_hands_full(served: Served) -> None:
    before, content = counted(), coloured(41)

    async def together() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=served.url, timeout=SECONDS) as client:
            body = asked(content, ignore_eos=True, max_tokens=200)
            return await asyncio.gather(*(client.post(PATH, json=body) for _ in range(24)))

    answers = asyncio.run(together())
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["choices"][0]["message"]["content"] for answer in answers}) == 1
    after = counted()
    assert all(after[name] > before[name] for name in before)


def test_documents_are_asked_for_where_they_are_read(http: httpx.Client) -> None:
    found = {}
    for _ in range(4):
        for answer in [http.post("/v1/documents", files={"file": ("word.png", WORD.read_bytes())}) for _ in range(2)]:
            assert answer.status_code == 202
            state = answer.json()
            while state["status"] not in ("done", "failed"):
                state = http.get(f"/v1/documents/{state['id']}").json()
            assert state["status"] == "done"
            found[state["id"]] = http.get(f"/v1/documents/{state['id']}?format=text").text
    assert len(set(found.values())) == 1
    gone = http.get("/v1/documents/doc-nosuch-0123456789abcdef0123456789abcdef")
    assert gone.json()["error"]["code"] == "document_not_found"


def test_a_replica_that_is_killed_is_replaced_and_its_pages_are_read_by_others(http: httpx.Client) -> None:
    before = replicas()
    victim = next(
        process
        for process in psutil.Process().children(recursive=True)
        if f"ray::ServeReplica:{NAME}:Reader" in " ".join(process.cmdline())
    )
    victim.kill()
    pages = [coloured(20 + number) for number in range(6)]
    for content in pages:
        assert http.post(PATH, json=asked(content, max_tokens=2)).status_code == 200
    until(lambda: _running() == 2 and replicas() != before, SECONDS)
    for content in pages:
        assert http.post(PATH, json=asked(content, max_tokens=2)).status_code == 200


def _running() -> int:
    return serve.status().applications[NAME].deployments["Reader"].replica_states.get("RUNNING", 0)


# Without a cluster


def test_requests_about_one_image_and_one_document_belong_together() -> None:
    first, other = (json.dumps(asked(coloured(number))).encode() for number in (1, 2))
    assert session_of(PATH, first) == session_of(PATH, first.replace(b"Extract", b"Give")) != session_of(PATH, other)
    named = json.dumps({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "http://x/a.png"}]}]})
    assert session_of(PATH, named.encode()) not in ("", session_of(PATH, named.replace("a.png", "b.png").encode()))
    said = json.dumps({"messages": [{"role": "user", "content": '"url": "http://x/a.png"'}]})
    assert session_of(PATH, said.encode()) == session_of("/tokenize", first) == session_of("/v1/documents", first) == ""
    name = "doc-abc123-0123456789abcdef0123456789abcdef"
    assert session_of(f"/v1/documents/{name}/pages/1", b"") == session_of(f"/v1/documents/{name}", b"") == "replica abc123"
    assert session_of("/v1/documents/doc-0123456789abcdef0123456789abcdef", b"") == ""


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--replicas", "2"], "--replicas is 2, but replicas need a Ray cluster: add --ray ADDRESS, or --ray local"),
        (["--ray", "local", "--replicas", "3:1"], "--replicas is 3:1: use a number, or a range such as 1:8"),
        (["--ray", "local", "--replicas", "many"], "--replicas is many: use a number, or a range such as 1:8"),
        (["--ray", "local", "--documents-dir", "x"], "--documents-dir applies to a single server, but --ray starts several"),
        (["--ray", "127.0.0.1:1", "--port", "0"], "Ray at 127.0.0.1:1 cannot be used"),
    ],
)
def test_what_cannot_be_served_on_ray_is_refused(
    options: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert main(options) == 2
    assert says in capsys.readouterr().err


def test_a_replica_whose_engine_has_ended_fails_its_health_check(model: Qwen2VLModel) -> None:
    reader: Any = SimpleNamespace(_server=Server(model, ServerConfig()))
    with model.serving():
        asyncio.run(Reader.check_health(reader))
    with pytest.raises(RuntimeError, match="the thread of the engine has ended"):
        asyncio.run(Reader.check_health(reader))


def test_the_service_of_kuberay_deploys_what_the_command_does() -> None:
    service = yaml.safe_load((ROOT / "deploy" / "rayservice.yaml").read_text(encoding="utf-8"))
    assert (service["apiVersion"], service["kind"]) == ("ray.io/v1", "RayService")
    (app,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    module, _, name = app["import_path"].partition(":")
    options = shlex.split(app["args"]["options"])
    arguments = parser().parse_args(options)
    assert arguments.api_key_file is not None
    without_keys = [word for word in options if word not in ("--api-key-file", arguments.api_key_file)]
    application = getattr(import_module(module), name)({"options": shlex.join(without_keys)})
    deployment = application._bound_deployment
    assert (app["name"], deployment.name) == (NAME, "Front")
    (reader, _) = deployment.init_args
    (workers,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    (container,) = workers["template"]["spec"]["containers"]
    cpus = float(container["resources"]["requests"]["cpu"])
    assert reader._bound_deployment.ray_actor_options["num_cpus"] == cpus
    assert reader._bound_deployment._deployment_config.autoscaling_config.max_replicas == workers["maxReplicas"]
