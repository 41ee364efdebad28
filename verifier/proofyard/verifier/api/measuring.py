"""What Prometheus is told of the API's own process, beside the verifier's metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.process_collector import ProcessCollector

PREFIX = "proofyard_verifier_api"
SECONDS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)
"""Buckets of what takes time."""

disable_created_metrics()  # type: ignore[no-untyped-call]


class ApiMetrics:
    """Of one process: it begins anew with it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(PREFIX, registry=self.registry)
        of_route, registry = ("route",), self.registry
        self.requests = Counter(
            f"{PREFIX}_requests", "Requests to the API by route and status.", ("route", "status"), registry=registry
        )
        self.request_seconds = Histogram(
            f"{PREFIX}_seconds", "How long they take.", of_route, buckets=SECONDS, registry=registry
        )
        self.streams = Gauge(f"{PREFIX}_streams", "Streams of live events that are read.", registry=registry)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
