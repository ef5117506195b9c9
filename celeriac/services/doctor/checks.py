"""The checks that need only the servers, not the machine of a command line."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime

from celeriac.db import diagnosis, maintenance, migrate, partitions, server, workers
from celeriac.db.engine import Database
from celeriac.db.executions import queries
from celeriac.domain.doctor import (
    BrokerServer,
    Cause,
    Code,
    Finding,
    LastingKeys,
    ProviderAnswer,
    RedisServer,
    failed,
    ok,
    warning,
)
from celeriac.domain.errors import (
    BrokerUnavailableError,
    CeleriacError,
    ConfigurationError,
    UnavailableError,
)
from celeriac.services.doctor import servers, state, upkeep, work

ALIVE_SECONDS = 30.0
"""A worker that has not reported itself for longer is not alive."""

_RESCUE_SECONDS = 60.0
"""A new beat watches for the time of a lease (30 s) before it takes work from a lost worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """What the checks ask, and what they must know of the settings.

    Each function may raise ConfigurationError, and UnavailableError of its server.
    """

    database: Callable[[], AbstractContextManager[Database]]
    """A database with connections of its own, which is closed afterwards."""
    redis: Callable[[], RedisServer]
    lasting: Sequence[Callable[[], LastingKeys]]
    """A sample of the keys of each database of Redis that is used."""
    providers: Callable[[], Sequence[ProviderAnswer]]
    """Asks the providers of models, within a few seconds."""
    objects: Callable[[], str]
    """Writes to the object store, reads from it, and returns its address."""
    depths: Callable[[Sequence[str]], Mapping[str, int]]
    """The messages in queues at the broker."""
    broker_address: Callable[[], str]
    broker_server: Callable[[], BrokerServer | None]
    queues: Sequence[str]
    """The queues that each installation has."""
    pooled: bool
    lock_seconds: float
    """How long a statement behind a pooler may wait for a lock."""
    lease_seconds: float
    notices_without_links: bool
    """Whether questions are sent to a webhook without links to answer them."""


@dataclass(frozen=True, slots=True)
class Checks:
    """One method per check; none raises an error of a server. Safe to share between threads."""

    installation: Installation

    def all(self) -> Mapping[Code, Callable[[], Iterator[Finding]]]:
        """Return the checks in order, each with the code of its failure."""
        return {
            Code.DATABASE: self.database,
            Code.REDIS: self.redis,
            Code.BROKER: self.broker,
            Code.OBJECT_STORE: self.objects,
            Code.WORKERS: self.workers,
            Code.LOST_WORKERS: self.state,
            Code.VACUUM: self.upkeep,
            Code.REDIS_KEYS: self.redis_keys,
            Code.NOTIFICATION_LINKS: self.notices,
        }

    def database(self) -> Iterator[Finding]:
        """Check the database server, its clock and the schema."""
        it = self.installation
        try:
            with it.database() as database, database.autocommit() as connection:
                said = server.describe(connection)
                skew = abs((said.now - datetime.now(UTC)).total_seconds())
                schema = migrate.schema(connection)
                session = server.session_settings(connection)
                odd = partitions.odd_partitions(connection) if schema.usable else []
                there = partitions.periods(connection) if schema.usable and not odd else []
        except ConfigurationError as error:
            yield failed(Code.DATABASE, error.message, None, Cause.MISCONFIGURED)
            return
        except UnavailableError as error:
            cure = servers.database_cure(error.message)
            yield failed(Code.DATABASE, error.message, cure)
            return
        yield servers.judge_server(said, database.address)
        finding = servers.judge_session(session, pooled=it.pooled, lock_seconds=it.lock_seconds)
        if finding is not None:
            yield finding
        yield servers.judge_schema(schema)
        if schema.usable:
            yield from servers.judge_partitions(odd, there, said.now)
        yield servers.judge_clock(skew)

    def redis(self) -> Iterator[Finding]:
        """Check the application's Redis, and whether it may lose data."""
        try:
            said = self.installation.redis()
        except ConfigurationError as error:
            yield failed(Code.REDIS, error.message, None, Cause.MISCONFIGURED)
        except UnavailableError as error:
            yield failed(Code.REDIS, error.message, servers.REDIS_CURE)
        else:
            yield servers.judge_redis(said)

    def broker(self) -> Iterator[Finding]:
        """Check that the broker returns the depths of its queues."""
        it = self.installation
        try:
            address = it.broker_address()
            served, used = self._known_queues()
            names = dict.fromkeys((*it.queues, *sorted(used.union(served or ()))))
            waiting = it.depths(list(names))
            said = it.broker_server()
        except ConfigurationError as error:
            yield failed(Code.BROKER, error.message, None, Cause.MISCONFIGURED)
        except BrokerUnavailableError as error:
            yield failed(Code.BROKER, error.message, servers.BROKER_CURE)
        else:
            yield from servers.judge_broker(address, waiting, served=served, used=used)
            if said is not None:
                yield from servers.judge_rabbitmq(said)

    def objects(self) -> Iterator[Finding]:
        """Check that the object store keeps what it is given."""
        try:
            address = self.installation.objects()
        except ConfigurationError as error:
            yield failed(Code.OBJECT_STORE, error.message, None, Cause.MISCONFIGURED)
        except CeleriacError as error:
            yield failed(Code.OBJECT_STORE, error.message, servers.OBJECTS_CURE)
        else:
            yield ok(Code.OBJECT_STORE, address)

    def workers(self) -> Iterator[Finding]:
        """Check which worker processes are alive, by their rows in the database."""
        try:
            with self.installation.database() as database, database.autocommit() as connection:
                usable = migrate.schema(connection).usable
                found = workers.live(connection, within_seconds=ALIVE_SECONDS) if usable else []
                waiting = queries.waiting_counts(connection) if usable else {}
        except CeleriacError:
            yield failed(Code.WORKERS, "unknown without the database", None)
            return
        if usable:
            yield from work.judge_workers(found, waiting)
        else:
            yield failed(Code.WORKERS, "unknown without the schema of this release", None)

    def state(self) -> Iterator[Finding]:
        """Check indexes, the oldest transaction, leases, and the releases of workers."""
        it = self.installation
        try:
            with it.database() as database, database.autocommit() as connection:
                if not migrate.schema(connection).usable:
                    return
                indexes = diagnosis.invalid_indexes(connection)
                oldest = diagnosis.oldest_transaction(connection)
                late = _RESCUE_SECONDS + it.lease_seconds
                abandoned = diagnosis.not_rescued(connection, seconds=late)
                found = workers.live(connection, within_seconds=ALIVE_SECONDS)
        except CeleriacError:  # other findings say so
            return
        yield state.judge_indexes(indexes)
        yield state.judge_transaction(oldest)
        yield state.judge_leases(abandoned)
        yield from state.judge_releases({each.version for each in found})

    def upkeep(self) -> Iterator[Finding]:
        """Check dead rows, transaction ids, the keeper's jobs, and API keys that end soon."""
        try:
            with self.installation.database() as database, database.autocommit() as connection:
                if not migrate.schema(connection).usable:
                    return
                dead = diagnosis.dead_rows(connection, most=upkeep.DEAD_ROWS)
                age, vacuums = diagnosis.transaction_age(connection)
                jobs = maintenance.find(connection)
                ending = diagnosis.expiring_keys(
                    connection, days=upkeep.EXPIRY_DAYS, used_days=upkeep.USED_DAYS
                )
        except CeleriacError:  # other findings say so
            return
        yield upkeep.judge_tables(dead, vacuums=vacuums)
        yield upkeep.judge_transactions(age)
        yield upkeep.judge_keeper(jobs)
        yield upkeep.judge_expiring(ending)

    def redis_keys(self) -> Iterator[Finding]:
        """Check a sample of Redis' keys for what never expires and is not ours."""
        for ask in self.installation.lasting:
            try:
                yield upkeep.judge_lasting(ask())
            except CeleriacError:  # other findings say so, and the next may be the same server
                return

    def providers(self) -> Iterator[Finding]:
        """Check that the providers of models answer; only for who asks: it goes to the internet."""
        try:
            yield from upkeep.judge_providers(self.installation.providers())
        except ConfigurationError as error:
            yield failed(Code.PROVIDERS, error.message, None, Cause.MISCONFIGURED)

    def notices(self) -> Iterator[Finding]:
        """Check that notifications of questions to a webhook have links."""
        if self.installation.notices_without_links:
            yield warning(
                Code.NOTIFICATION_LINKS,
                "CELERIAC_APPROVALS_WEBHOOK receives questions without links to answer them",
                "Set CELERIAC_PUBLIC_URL, where people reach the API with a browser.",
            )

    def _known_queues(self) -> tuple[set[str] | None, set[str]]:
        """Return the queues that live workers listen to, and those in which executions wait.

        The first is None if it is unknown. The check of workers warns of the second.
        """
        try:
            with self.installation.database() as database, database.autocommit() as connection:
                if not migrate.schema(connection).usable:  # another finding says so
                    return None, set()
                found = workers.live(connection, within_seconds=ALIVE_SECONDS)
                used = set(queries.waiting_counts(connection))
        except CeleriacError:  # another finding says so
            return None, set()
        if not all(worker.queues for worker in found):  # an older release doesn't name them
            return None, used
        return {queue for worker in found for queue in worker.queues}, used
