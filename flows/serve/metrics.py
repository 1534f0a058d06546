"""What Prometheus is told of a server: requests, times, what is served and tried, memory; never a text.

A registry of its own for every server, read when /metrics is asked.
"""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from flows.serve.lanes import Slot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
PATHS = frozenset({"/predict", "/embed", "/generate", "/healthz", "/metrics", "/openapi.json"})


class Meters:
    """The counters of one server."""

    def __init__(self, slot: Slot) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self._requests = Counter("shrink_requests", "Requests by answer.", ["path", "code", "version"], registry=own)
        self._errors = Counter("shrink_errors", "Requests answered with 5xx.", ["path", "version"], registry=own)
        self._seconds = Histogram(
            "shrink_request_seconds", "Seconds to the last byte.", ["path", "version"], buckets=BUCKETS, registry=own
        )
        self.registry.register(Present(slot))

    def answered(self, path: str, status: int, version: str, seconds: float) -> None:
        """Count a request; whatever path a stranger makes up is one."""
        known = path if path in PATHS else "other"
        self._requests.labels(known, str(status), version).inc()
        if status >= 500 and path != "/healthz":  # which says 503 until a version is loaded
            self._errors.labels(known, version).inc()
        if status == 200:
            self._seconds.labels(known, version).observe(seconds)

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)


class Present(Collector):
    """What is true of a slot when it is asked."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot

    def collect(self) -> Iterable[Metric]:
        """Gauges of every version that a process runs for, and of what is tried."""
        slot = self.slot
        info = GaugeMetricFamily("shrink_version_info", "Which run.", labels=["model", "version", "role", "phase"])
        memory = GaugeMetricFamily("shrink_child_resident_bytes", "Memory of a version's process.", labels=["version"])
        roles = (("serving", slot.serving), ("candidate", slot.candidate), ("former", slot.former))
        for role, lane in roles:
            if lane is not None:
                info.add_metric([slot.name, lane.served.version, role, slot.phase or ""], 1)
                memory.add_metric([lane.served.version], 1e6 * lane.child.resident_mb())
        yield info
        yield memory
        yield GaugeMetricFamily("shrink_waiting", "Requests that are being answered.", value=slot.waiting)
        yield GaugeMetricFamily("shrink_shadow_compared", "Live requests compared in this phase.", value=slot.compared)
        yield GaugeMetricFamily("shrink_shadow_agreed", "Those in which both agreed.", value=slot.agreed)
        yield GaugeMetricFamily("shrink_refused", "Whether one is refused.", value=slot.refused is not None)
        yield CounterMetricFamily("shrink_child_restarts", "Processes that ended.", value=slot.restarts)
        yield CounterMetricFamily("shrink_rollbacks", "Versions that were taken back.", value=slot.rollbacks)
