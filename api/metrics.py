"""What the server says of itself: Prometheus metrics, and one line in the log for each request."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from api import answers
from api.access import SCOPE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Scope

    from storage.pointers import Pointer

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
HOT = "batchpred.hot"
HOT_ROUTE = "/v1/jobs/{job}/predictions/{key}"
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_log = logging.getLogger("batchpred.access")


class Metrics:
    """The metrics of one application in one process. Routes are named by their pattern: no key is a label."""

    def __init__(self, *, access_log: bool) -> None:
        self._logs = access_log
        self._registry = CollectorRegistry()
        self._found: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self._requests = Counter(
            "batchpred_api_requests", "Requests answered", ("route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "batchpred_api_request_seconds", "Time until an answer was sent", ("route",),
            buckets=_BUCKETS, registry=self._registry,
        )  # fmt: skip
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
        # Finding a metric by its labels takes longer than counting in it. Routes and statuses are few.
        found = self._found.get((route, status))
        if found is None:
            found = (self._requests.labels(route, status), self._seconds.labels(route))
            self._found[route, status] = found
        counter, histogram = found
        counter.inc()
        histogram.observe(seconds)
        if self._logs and _log.isEnabledFor(logging.INFO):
            reader = scope.get(SCOPE)
            line = {
                "method": scope["method"],
                "route": route,
                "job": scope["path"].split("/")[3] if scope["path"].startswith("/v1/jobs/") else None,
                "status": status,
                "ms": round(seconds * 1e3, 3),
                "request_id": scope["batchpred.request_id"].decode(),
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
