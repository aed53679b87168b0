"""Prometheus metrics, with vLLM's names where the meaning is the same."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
LABELS = ("model_name", "engine")
ENGINE = "0"


class Metrics:
    """Counters and histograms of the server.

    Args:
        model_name: name of the model in the API, a label of every metric.
        engine: returns the current figures of the engine and its cache.
        documents: returns the number of documents in each state.
    """

    def __init__(
        self,
        model_name: str,
        engine: Callable[[], Mapping[str, float]],
        documents: Callable[[], Mapping[str, int]],
    ) -> None:
        self.registry = CollectorRegistry()
        self._labels = (model_name, ENGINE)
        self.registry.register(_Now(self._labels, engine, documents))

        def counter(name: str, about: str, *more: str) -> Counter:
            return Counter(name, about, (*LABELS, *more), registry=self.registry)

        def histogram(name: str, about: str, buckets: Iterable[float] = SECONDS) -> Any:
            family = Histogram(name, about, LABELS, registry=self.registry, buckets=tuple(buckets))
            return family.labels(*self._labels)

        self._prompt = counter("vllm:prompt_tokens", "Prompt tokens, including those of images.").labels(*self._labels)
        self._generated = counter("vllm:generation_tokens", "Generated tokens.").labels(*self._labels)
        self._queries = counter("vllm:prefix_cache_queries", "Prompt tokens looked up in the cache.").labels(*self._labels)
        self._hits = counter("vllm:prefix_cache_hits", "Prompt tokens found in the cache.").labels(*self._labels)
        self._preempted = counter("vllm:num_preemptions", "Always 0: no request is interrupted.").labels(*self._labels)
        self._success = counter("vllm:request_success", "Successful requests.", "finished_reason")
        self._first = histogram("vllm:time_to_first_token_seconds", "Time from the request to its first token.")
        self._between = histogram("vllm:inter_token_latency_seconds", "Time between two tokens.")
        self._whole = histogram("vllm:e2e_request_latency_seconds", "Time from the request to its end.")
        self._stages = {
            "queue": histogram("vllm:request_queue_time_seconds", "Time in the queue."),
            "prefill": histogram("vllm:request_prefill_time_seconds", "Time of the vision tower and the prefill."),
            "decode": histogram("vllm:request_decode_time_seconds", "Time of all tokens after the first."),
        }
        self._prompt_size = histogram("vllm:request_prompt_tokens", "Prompt tokens of a request.", TOKENS)
        self._answer_size = histogram("vllm:request_generation_tokens", "Generated tokens of a request.", TOKENS)
        self._failed = counter("mindnlp_ocr:request_failed", "Requests that failed.").labels(*self._labels)
        self._aborted = counter("mindnlp_ocr:request_aborted", "Requests whose client disconnected.").labels(*self._labels)
        self._stopped = counter(
            "mindnlp_ocr:request_repetition", "Answers that were stopped because they repeated themselves."
        ).labels(*self._labels)
        self._pages = counter("mindnlp_ocr:pages", "Pages of documents, by outcome.", "outcome")
        self._confidence = histogram(
            "mindnlp_ocr:page_confidence",
            "Mean confidence of pages.",
            (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0),
        )
        self._http = Counter(
            "http_requests", "HTTP requests by status.", ("method", "handler", "status"), registry=self.registry
        )
        self._http_seconds = Histogram(
            "http_request_duration_seconds",
            "Duration of HTTP requests.",
            ("handler",),
            registry=self.registry,
            buckets=SECONDS,
        )

    def http(self, method: str, path: str, status: int, seconds: float) -> None:
        """Record an HTTP request."""
        known = method if method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH") else "other"
        self._http.labels(known, path or "none", str(status)).inc()
        self._http_seconds.labels(path or "none").observe(seconds)

    def first_token(self, seconds: float) -> None:
        """Record the first token of a choice."""
        self._first.observe(seconds)

    def more_tokens(self, seconds: float, count: int) -> None:
        """Record further tokens of a choice, with the given time between two of them."""
        for _ in range(count):
            self._between.observe(seconds)

    def aborted(self) -> None:
        """Record a choice that was cancelled because the client disconnected."""
        self._aborted.inc()

    def ended(self, handle: Any, seconds: float) -> None:
        """Record the end of a choice."""
        if handle.error is not None:
            self._failed.inc()
            return
        reading = handle.result(0)
        self._whole.observe(seconds)
        repeated = reading.finish_reason == "repetition"
        self._success.labels(*self._labels, "length" if repeated else reading.finish_reason).inc()
        if repeated:
            self._stopped.inc()
        self._prompt.inc(reading.prompt_tokens)
        self._queries.inc(reading.prompt_tokens)
        self._hits.inc(reading.reused_tokens)
        self._generated.inc(reading.new_tokens)
        self._prompt_size.observe(reading.prompt_tokens)
        self._answer_size.observe(reading.new_tokens)
        times = {name: value / 1e3 for name, value in reading.timings_ms.items()}
        self._stages["queue"].observe(handle.queue_seconds or 0.0)
        self._stages["prefill"].observe(times.get("vision", 0.0) + times.get("prefill", 0.0))
        self._stages["decode"].observe(times.get("decode", 0.0))

    def page(self, confidence: float | None, failed: bool) -> None:
        """Record a page of a document."""
        self._pages.labels(*self._labels, "failed" if failed else "read").inc()
        if confidence is not None:
            self._confidence.observe(confidence)


class _Now(Collector):
    """Metrics whose values are read when Prometheus requests them."""

    GAUGES: ClassVar = {
        "running": ("vllm:num_requests_running", "Running requests."),
        "waiting": ("vllm:num_requests_waiting", "Requests waiting for a slot."),
        "usage": ("vllm:kv_cache_usage_perc", "Fraction of the KV slots used by running requests, 0 to 1."),
        "slots": ("mindnlp_ocr:kv_slots", "Number of KV slots."),
        "cached": ("mindnlp_ocr:kv_slots_cached", "KV slots with prefixes of finished requests."),
        "kv_bytes": ("mindnlp_ocr:kv_cache_bytes", "Size of the KV slots in bytes."),
        "feature_bytes": ("mindnlp_ocr:feature_cache_bytes", "Size of the cached image features in bytes."),
        "waiting_bytes": ("mindnlp_ocr:waiting_bytes", "Size of the images of waiting requests in bytes."),
        "compilations": ("mindnlp_ocr:compilations", "Compiled graphs; constant once all graphs in use are warm."),
    }
    COUNTERS: ClassVar = {
        "cache_hits": ("mindnlp_ocr:cache_request_hits", "Requests that reused a cached prefix."),
        "cache_misses": ("mindnlp_ocr:cache_request_misses", "Requests that reused no cached prefix."),
        "evictions": ("mindnlp_ocr:cache_evictions", "Evicted prefixes and image features."),
        "feature_hits": ("mindnlp_ocr:feature_cache_hits", "Images whose features were in the cache."),
    }

    def __init__(
        self,
        labels: tuple[str, str],
        engine: Callable[[], Mapping[str, float]],
        documents: Callable[[], Mapping[str, int]],
    ) -> None:
        self._labels, self._engine, self._documents = labels, engine, documents

    def describe(self) -> Iterable[Metric]:
        """Return nothing, because the engine does not run yet when the collector is registered."""
        return ()

    def collect(self) -> Iterable[Metric]:
        now = self._engine()
        for name, (metric, about) in self.GAUGES.items():
            if name in now:
                gauge = GaugeMetricFamily(metric, about, labels=LABELS)
                gauge.add_metric(self._labels, now[name])
                yield gauge
        for name, (metric, about) in self.COUNTERS.items():
            if name in now:
                counter = CounterMetricFamily(metric, about, labels=LABELS)
                counter.add_metric(self._labels, now[name])
                yield counter
        gauge = GaugeMetricFamily("mindnlp_ocr:documents", "Stored documents, by state.", labels=(*LABELS, "state"))
        for state, count in self._documents().items():
            gauge.add_metric((*self._labels, state), count)
        yield gauge
