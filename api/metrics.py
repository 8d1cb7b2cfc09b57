"""What the server says of itself: Prometheus metrics, and one line in the log for each request."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import defaultdict
from datetime import UTC, datetime
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from api import answers
from api.access import SCOPE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from starlette.types import Scope

    from api.access import Reader
    from storage.pointers import Pointer

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
HOT = "batchpred.hot"
HOT_ROUTE = "/v1/jobs/{job}/predictions/{key}"
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_log = logging.getLogger("batchpred.access")


class _Requests(Collector):
    """How many were answered, and how long that took: counted in 0.3 µs where the library's own take 2.4."""

    def __init__(self) -> None:
        # How many took how long, by route and status, and last of each the sum.
        self._times: dict[tuple[str, int], list[float]] = defaultdict(lambda: [0] * (len(_BUCKETS) + 2))

    def count(self, route: str, status: int, seconds: float) -> None:
        """Count one; called by the event loop alone."""
        times = self._times[route, status]
        times[bisect_left(_BUCKETS, seconds)] += 1
        times[-1] += seconds

    def collect(self) -> Iterator[Metric]:
        """Give what was counted; called by any thread."""
        requests = CounterMetricFamily(
            "batchpred_api_requests", "Requests answered", labels=("route", "status")
        )
        routes: dict[str, list[float]] = {}
        for (route, status), times in self._times.copy().items():
            requests.add_metric((route, str(status)), sum(times[:-1]))
            so_far = routes.get(route, [0] * len(times))
            routes[route] = [sum(each) for each in zip(so_far, times, strict=True)]
        yield requests
        seconds = HistogramMetricFamily(
            "batchpred_api_request_seconds", "Time until an answer was sent", labels=("route",)
        )
        for route, (*times, took) in routes.items():
            names = [*map(str, _BUCKETS), "+Inf"]
            seconds.add_metric((route,), list(zip(names, accumulate(times), strict=True)), took)
        yield seconds


class Metrics:
    """The metrics of one application in one process. Routes are named by their pattern: no key is a label."""

    def __init__(self, *, access_log: bool) -> None:
        self.logs = access_log and _log.isEnabledFor(logging.INFO)
        self._registry = CollectorRegistry()
        requests = _Requests()
        self._registry.register(requests)
        self.count = requests.count
        self._trusted = Gauge(
            "batchpred_api_ready",
            "1 while the database was read within the last second",
            registry=self._registry,
        )
        self._late = Gauge(
            "batchpred_job_late", "1 while the job's next run is late", ("job",), registry=self._registry
        )
        self._published = Gauge(
            "batchpred_job_published_timestamp_seconds", "When the newest run was published", ("job",),
            registry=self._registry,
        )  # fmt: skip

    def record(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a request that was answered, and write its line: neither the key sent nor the one asked for."""
        route = _route(scope)
        self.count(route, status, seconds)
        if self.logs:
            job = scope["path"].split("/")[3] if scope["path"].startswith("/v1/jobs/") else None
            request_id = scope["batchpred.request_id"]
            self.log(scope["method"], route, job, status, seconds, request_id, scope.get(SCOPE))

    def log(  # noqa: PLR0917  # once for each request: naming them takes time
        self,
        method: str,
        route: str,
        job: str | None,
        status: int,
        seconds: float,
        request_id: bytes,
        reader: Reader | None,
    ) -> None:
        """Write the line of a request."""
        line = {
            "method": method,
            "route": route,
            "job": job,
            "status": status,
            "ms": round(seconds * 1e3, 3),
            "request_id": request_id.decode(),
            "key_id": reader.key_id if reader else None,
        }
        _log.info("request", extra=line)

    def page(self, pointers: Iterable[Pointer], *, ready: bool) -> bytes:
        """Write all metrics as Prometheus reads them."""
        self._trusted.set(ready)
        now = datetime.now(UTC)
        for gauge in (self._late, self._published):
            gauge.clear()
        for pointer in pointers:
            job = pointer.job.name
            self._late.labels(job).set(bool(answers.is_late(pointer.run, now)))
            if pointer.run.published_at:
                self._published.labels(job).set(pointer.run.published_at.timestamp())
        return generate_latest(self._registry)


def _route(scope: Scope) -> str:
    if "route" in scope:
        return str(getattr(scope["route"], "path_format", "other"))
    return HOT_ROUTE if HOT in scope else "other"
