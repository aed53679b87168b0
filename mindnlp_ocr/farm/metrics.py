"""Metrics of a farm, exported through Ray to its dashboard and Prometheus."""

from ray.util.metrics import Counter, Histogram


class Metrics:
    """Metrics of an actor. Ray adds them up over the cluster."""

    def __init__(self) -> None:
        self._pages = Counter("mindnlp_ocr_farm_pages", "Processed pages, including failed ones.")
        self._failures = Counter("mindnlp_ocr_farm_failures", "Pages and documents that could not be read.")
        self._seconds = Histogram(
            "mindnlp_ocr_farm_task_seconds",
            "Duration of a task in seconds.",
            boundaries=[0.1, 1.0, 10.0, 60.0, 300.0, 1800.0],
        )

    def add(self, pages: int, failures: int, seconds: float) -> None:
        """Record a task."""
        for counter, number in ((self._pages, pages), (self._failures, failures)):
            if number:
                counter.inc(number)
        self._seconds.observe(max(seconds, 1e-3))
