"""Checks of what the database says of the installation: indexes, transactions, leases, releases."""

from collections.abc import Iterator, Sequence

from celeriac.cli.core.output import duration
from celeriac.cli.core.server import open_database
from celeriac.cli.doctor.findings import Finding, failed, ok, warning
from celeriac.cli.doctor.servers import ALIVE_SECONDS
from celeriac.db import diagnosis, migrate, workers
from celeriac.domain.errors import CeleriacError
from celeriac.settings import Settings
from celeriac.version import __version__

OLD_TRANSACTION_SECONDS = 300.0
"""No statement of ours takes longer; migrations wait for others no longer either."""

_RESCUE_SECONDS = 60.0
"""A new beat watches for the time of a lease (30 s) before it takes work from a lost worker."""


def check_state(settings: Settings) -> Iterator[Finding]:
    """Check indexes, the oldest transaction, leases, and the releases of workers."""
    try:
        with open_database(settings) as database, database.autocommit() as connection:
            if not migrate.schema(connection).usable:
                return
            indexes = diagnosis.invalid_indexes(connection)
            oldest = diagnosis.oldest_transaction(connection)
            late = _RESCUE_SECONDS + settings.worker.lease_seconds
            abandoned = diagnosis.not_rescued(connection, seconds=late)
            found = workers.live(connection, within_seconds=ALIVE_SECONDS)
    except CeleriacError:  # other findings say so
        return
    yield judge_indexes(indexes)
    yield judge_transaction(oldest)
    yield judge_leases(abandoned)
    yield from judge_releases({each.version for each in found})


def judge_indexes(invalid: Sequence[str]) -> Finding:
    """Judge indexes whose build was interrupted: queries don't use them, writes pay for them."""
    if not invalid:
        return ok("indexes", "all are valid")
    named = ", ".join(invalid)
    return warning(
        "indexes",
        f"the build of {named} was interrupted: queries are slow without it",
        "Run `celeriac db upgrade`. Build an index of your own again: REINDEX INDEX CONCURRENTLY.",
    )


def judge_transaction(oldest: diagnosis.OldTransaction | None) -> Finding:
    """Judge the age of the oldest transaction: what it may see can't be cleaned up."""
    if oldest is None or oldest.seconds < OLD_TRANSACTION_SECONDS:
        return ok("transactions", "none is old")
    return warning(
        "transactions",
        f"{oldest.application} (process {oldest.pid}) has had one open for "
        f"{duration(oldest.seconds)}: tables grow, and migrations and audit seals wait",
        f"End it there, or in PostgreSQL: SELECT pg_terminate_backend({oldest.pid}).",
    )


def judge_leases(abandoned: Sequence[str]) -> Finding:
    """Judge workers whose leases have ended and whose executions nobody has taken."""
    if not abandoned:
        return ok("keeper", "no lost worker waits for it")
    return failed(
        "keeper",
        f"the lease of {', '.join(abandoned)} has ended, and nobody took its executions",
        "Start beat, which rescues them: `celeriac beat`. If one runs, see its log.",
    )


def judge_releases(versions: set[str]) -> Iterator[Finding]:
    """Judge the releases of live workers beside that of this program."""
    if versions - {__version__}:
        named = ", ".join(sorted(versions))
        yield warning(
            "releases",
            f"workers have {named}; this program has {__version__}",
            "Finish the upgrade: restart what is older, then `celeriac db upgrade --phase post`.",
        )
