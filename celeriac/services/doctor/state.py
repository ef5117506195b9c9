"""What doctor says of indexes, transactions, leases and releases."""

from collections.abc import Iterator, Sequence

from celeriac.db import diagnosis
from celeriac.domain.doctor import Code, Finding, failed, ok, warning
from celeriac.kit.units import duration
from celeriac.version import __version__

OLD_TRANSACTION_SECONDS = 300.0
"""No statement of ours takes longer; migrations wait for others no longer either."""


def judge_indexes(invalid: Sequence[str]) -> Finding:
    """Judge indexes whose build was interrupted: queries don't use them, writes pay for them."""
    if not invalid:
        return ok(Code.INDEXES, "all are valid")
    named = ", ".join(invalid)
    return warning(
        Code.INDEXES,
        f"the build of {named} was interrupted: queries are slow without it",
        "Run `celeriac db upgrade`. Build an index of your own again: REINDEX INDEX CONCURRENTLY.",
    )


def judge_transaction(oldest: diagnosis.OldTransaction | None) -> Finding:
    """Judge the age of the oldest transaction: what it may see can't be cleaned up."""
    if oldest is None or oldest.seconds < OLD_TRANSACTION_SECONDS:
        return ok(Code.LONG_TRANSACTIONS, "none is old")
    return warning(
        Code.LONG_TRANSACTIONS,
        f"{oldest.application} (process {oldest.pid}) has had one open for "
        f"{duration(oldest.seconds)}: tables grow, and migrations and audit seals wait",
        f"End it there, or in PostgreSQL: SELECT pg_terminate_backend({oldest.pid}).",
    )


def judge_leases(abandoned: Sequence[str]) -> Finding:
    """Judge workers whose leases have ended and whose executions nobody has taken."""
    if not abandoned:
        return ok(Code.LOST_WORKERS, "no lost worker waits for it")
    return failed(
        Code.LOST_WORKERS,
        f"the lease of {', '.join(abandoned)} has ended, and nobody took its executions",
        "Start beat, which rescues them: `celeriac beat`. If one runs, see its log.",
    )


def judge_releases(versions: set[str]) -> Iterator[Finding]:
    """Judge the releases of live workers beside that of this program."""
    if versions - {__version__}:
        named = ", ".join(sorted(versions))
        yield warning(
            Code.RELEASES,
            f"workers have {named}; this program has {__version__}",
            "Finish the upgrade: restart what is older, then `celeriac db upgrade --phase post`.",
        )
