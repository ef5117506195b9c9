"""Reports to Kubernetes how busy each worker's pod is: a smaller fleet loses idle ones first."""

from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from celeriac.db.engine import Database
from celeriac.services.operations.health import live_workers

HIGHEST_COST = 2**31 - 1
"""The highest that Kubernetes takes."""


class Cluster(Protocol):
    """The pods of a namespace; implemented in the adapters."""

    def costs(self, selector: str) -> Iterable[tuple[str, str | None]]:
        """Return the name and the deletion cost of each pod with these labels."""
        ...

    def set_cost(self, pod: str, cost: int) -> bool:
        """Set the deletion cost of a pod; return whether it is still there."""
        ...


def update_costs(
    database: Database, cluster: Cluster, *, selector: str, within_seconds: float
) -> dict[str, int]:
    """Set the deletion cost of each pod to what runs in it; return those that have changed.

    What runs are executions and plain Celery tasks, as worker processes reported within the
    seconds. A pod is that of the workers whose name ends in `@` and the name of the pod. Raises
    DatabaseUnavailableError, UnavailableError, ConfigurationError.
    """
    running: Counter[str] = Counter()
    for each in live_workers(database, within_seconds=within_seconds):
        running[each.hostname.rpartition("@")[2]] += each.running + each.plain_running
    changed: dict[str, int] = {}
    for pod, shown in cluster.costs(selector):
        cost = min(running[pod], HIGHEST_COST)
        # without the annotation the cost is 0
        if (shown or "0") != str(cost) and cluster.set_cost(pod, cost):
            changed[pod] = cost
    return changed
