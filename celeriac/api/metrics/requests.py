"""Latency of the API's requests, by route, in this process."""

from prometheus_client import CollectorRegistry, Histogram
from starlette.types import Scope

from celeriac.api.core.links import PREFIX

UNMATCHED = "unmatched"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class RequestTimes:
    """Counts how long requests take. Its labels have no value that a caller chooses."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._seconds = Histogram(
            "celeriac_http_request_seconds",
            "Time until a request of this API process was answered.",
            ("route", "method", "status"),
            registry=self.registry,
            buckets=_BUCKETS,
        )

    def observe(self, scope: Scope, status: int, seconds: float) -> None:
        """Count one request. A path that no route has is `unmatched`."""
        route = getattr(scope.get("route"), "path", UNMATCHED)
        if scope["path"].startswith(f"{PREFIX}/") and route.startswith("/"):
            route = PREFIX + route  # a router knows its own part of the path
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._seconds.labels(route, method, str(status)).observe(seconds)
