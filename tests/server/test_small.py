"""What is small: models, version, tokens, metrics, the description of the API."""

import socket

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mindnlp_ocr import __version__
from tests.server.fake import FakeModel
from tests.server.shapes import NAME, asked
from tests.server.started import started, until

PATH = "/v1/chat/completions"


def test_there_is_exactly_one_model(http: httpx.Client) -> None:
    """MinerU takes the name of the only one."""
    body = http.get("/v1/models").json()
    assert body["object"] == "list"
    (card,) = body["data"]
    assert (card["id"], card["object"], card["max_model_len"]) == (NAME, "model", 2048)
    assert http.get(f"/v1/models/{NAME}").json() == card
    assert http.get("/v1/models/other").status_code == 404


def test_the_model_has_the_name_that_it_is_given(fake: FakeModel) -> None:
    with started(fake, model_name="org/reader") as server:
        assert httpx.get(server.url + "/v1/models").json()["data"][0]["id"] == "org/reader"
        assert httpx.get(server.url + "/v1/models/org/reader").status_code == 200
        assert httpx.post(server.url + PATH, json=asked(model="org/reader")).json()["model"] == "org/reader"
        assert httpx.post(server.url + PATH, json=asked()).status_code == 404


def test_the_version_is_that_of_the_package(http: httpx.Client) -> None:
    assert http.get("/version").json() == {"version": __version__}


@pytest.mark.parametrize("text", ["Invoice", "Größe 合计 🙂", "<|im_start|>user\n", ""])
def test_tokens_of_a_text_give_the_text_back(text: str, http: httpx.Client) -> None:
    body = http.post("/tokenize", json={"prompt": text, "return_token_strs": True}).json()
    assert body["count"] == len(body["tokens"]) == len(body["token_strs"])
    assert http.post("/detokenize", json={"tokens": body["tokens"]}).json() == {"prompt": text}


def test_a_special_token_is_one(http: httpx.Client) -> None:
    body = http.post("/tokenize", json={"prompt": "<|im_end|>", "return_token_strs": True}).json()
    assert (body["tokens"], body["token_strs"]) == ([8130], ["<|im_end|>"])


@pytest.mark.parametrize("tokens", [[-1], [10**6], ["a"], "12", [2**70]])
def test_ids_that_are_none_are_refused(tokens: object, http: httpx.Client) -> None:
    answer = http.post("/detokenize", json={"tokens": tokens})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "tokens"


def samples(http: httpx.Client) -> dict[str, float]:
    families = text_string_to_metric_families(http.get("/metrics").text)
    return {
        sample.name + (f"/{reason}" if (reason := sample.labels.get("finished_reason")) else ""): sample.value
        for family in families
        for sample in family.samples
        if sample.labels.get("model_name", NAME) == NAME and "le" not in sample.labels
    }


def test_metrics_have_the_names_of_vllm_and_count_what_was_asked(http: httpx.Client, fake: FakeModel) -> None:
    for _ in range(2):
        http.post(PATH, json=asked())
    http.post(PATH, json=asked(max_tokens=3, n=2))
    until(lambda: samples(http)["vllm:num_requests_running"] == 0)  # an answer may be here before its slot is free
    found = samples(http)
    tokens = 2 * len(fake.ids) + 2 * 3
    expected = {
        "vllm:num_requests_running": 0,
        "vllm:num_requests_waiting": 0,
        "vllm:kv_cache_usage_perc": 0,
        "vllm:prompt_tokens_total": 4 * 20,
        "vllm:generation_tokens_total": tokens,
        "vllm:prefix_cache_queries_total": 4 * 20,
        "vllm:prefix_cache_hits_total": 4 * 5,
        "vllm:num_preemptions_total": 0,
        "vllm:request_success_total/stop": 2,
        "vllm:request_success_total/length": 2,
        "vllm:time_to_first_token_seconds_count": 4,
        "vllm:e2e_request_latency_seconds_count": 4,
        "vllm:request_queue_time_seconds_sum": 4 * 0.001,
        "vllm:request_prefill_time_seconds_sum": 4 * 0.007,
        "vllm:request_decode_time_seconds_sum": 4 * 0.005,
        "vllm:request_prompt_tokens_sum": 4 * 20,
        "vllm:request_generation_tokens_sum": tokens,
        "mindnlp_ocr:kv_slots": 4,
        "mindnlp_ocr:cache_evictions_total": 2,
        "mindnlp_ocr:kv_cache_bytes": 1024,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    # as many as tokens, but for the first of each and those that came together with it
    assert 0 < found["vllm:inter_token_latency_seconds_count"] <= tokens - 4


def test_metrics_tell_errors_and_hangups_and_requests_by_path(http: httpx.Client, fake: FakeModel) -> None:
    fake.fail_at = 1
    http.post(PATH, json=asked())
    fake.fail_at = -1
    fake.go.clear()
    with pytest.raises(httpx.ReadTimeout):
        http.post(PATH, json=asked(), timeout=0.2)
    fake.go.set()
    until(lambda: samples(http)["mindnlp_ocr:request_aborted_total"] == 1)
    http.get("/v1/models/secret-name")
    text = http.get("/metrics").text
    assert samples(http)["mindnlp_ocr:request_failed_total"] == 1
    assert 'http_requests_total{handler="/v1/chat/completions",method="POST",status="400"} 1.0' in text
    assert "secret-name" not in text  # names of users would be metrics without end


def test_the_description_has_the_body_of_every_request(http: httpx.Client) -> None:
    description = http.get("/openapi.json").json()
    schemas = description["components"]["schemas"]
    for path, name in ((PATH, "ChatRequest"), ("/tokenize", "TokenizeRequest"), ("/detokenize", "DetokenizeRequest")):
        content = description["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert content["schema"]["$ref"].rpartition("/")[2] == name
    assert "vllm_xargs" in schemas["ChatRequest"]["properties"]
    assert schemas["ChatRequest"]["properties"]["messages"]["items"]["$ref"].rpartition("/")[2] in schemas


def test_answers_are_not_held_back_by_the_socket() -> None:
    """Nagle's algorithm and a client's delayed acknowledgement would add 40 ms to every answer."""
    from mindnlp_ocr.server.command import _bound
    from mindnlp_ocr.server.config import ServerConfig

    with _bound(ServerConfig(port=0)) as listening:
        assert listening.proto == socket.IPPROTO_TCP  # what asyncio looks at
