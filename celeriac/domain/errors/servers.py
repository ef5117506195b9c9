"""Errors of servers and of the processes of Celeriac."""

from celeriac.domain.errors.base import CeleriacError


class UnavailableError(CeleriacError, code="unavailable"):
    """A server that Celeriac needs doesn't answer; a later try may succeed."""


class BusyError(UnavailableError, code="busy"):
    """This process has reached its limit of such work; a later try may succeed."""


class DatabaseUnavailableError(UnavailableError, code="database_unavailable"):
    """PostgreSQL did not run a statement, or its answer was lost; it may be sent again.

    The class itself: the server can't be reached or can't write. Its subclasses: it could, but did
    not.
    """


class DatabaseBusyError(DatabaseUnavailableError, code="database_busy"):
    """A lock time-out, a deadlock, or a serialization failure."""


class DatabaseTimeoutError(DatabaseUnavailableError, code="database_timeout"):
    """The statement exceeded its time limit, or an operator cancelled it."""


class ObjectStoreError(UnavailableError, code="object_store_unavailable"):
    """The object store can't be reached, or refuses what it is asked."""


class ObjectMissingError(CeleriacError, code="object_missing"):
    """The object store does not have an object that it should have."""


class BrokerUnavailableError(UnavailableError, code="broker_unavailable"):
    """The message broker doesn't answer; accepted executions are stored and sent later."""


class PartitionsError(DatabaseUnavailableError, code="database_partitions"):
    """Somebody has attached a partition beside which Celeriac can't make its own; it is named."""


class LeaseExpiredError(DatabaseUnavailableError):
    """This worker process has no valid lease now, so it can't claim; its heartbeat renews it."""


class LeaseLostError(CeleriacError, code="lease_lost"):
    """This worker no longer holds the attempt's lease; the database refuses its writes."""
