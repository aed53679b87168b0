"""Counters of a farm in Ray's metrics, which its dashboard and Prometheus show."""

from ray.util.metrics import Counter, Histogram


class Metrics:
    """Of one actor; Ray sums them over the cluster."""

    def __init__(self) -> None:
        self._pages = Counter("mindnlp_ocr_farm_pages", "Pages that were read, or could not be.")
        self._failures = Counter("mindnlp_ocr_farm_failures", "Pages and documents that could not be read.")
        self._seconds = Histogram(
            "mindnlp_ocr_farm_task_seconds", "Seconds that a task took.", boundaries=[0.1, 1.0, 10.0, 60.0, 300.0, 1800.0]
        )

    def add(self, pages: int, failures: int, seconds: float) -> None:
        """Count a task."""
        for counter, number in ((self._pages, pages), (self._failures, failures)):
            if number:
                counter.inc(number)
        self._seconds.observe(max(seconds, 1e-3))
