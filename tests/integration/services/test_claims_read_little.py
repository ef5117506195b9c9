"""Claims read no index entries of what was claimed before."""

from sqlalchemy import text

from celeriac.db import partitions
from celeriac.domain.executions.model import (
    Completed,
)
from celeriac.domain.tasks import DEFAULT_QUEUE
from tests.support.core import Core
from tests.support.waiting import wait_until

_CLAIMS = 150


_DUE_READ = text(
    "SELECT sum(idx_scan), sum(idx_tup_read) FROM pg_stat_user_indexes"
    " WHERE indexrelid IN (SELECT inhrelid FROM pg_inherits"
    " WHERE inhparent = 'ix_executions_due'::regclass)"
)


def test_a_claim_does_not_read_what_was_claimed_before_it(core: Core) -> None:
    """The executions of a batch are due at one time, so their entries in the index are equal."""
    # while it runs, the server keeps dead entries
    with core.database.autocommit() as connection:
        names = [each.name("executions") for each in partitions.periods(connection)]
    for name in names:
        core.execute(f"ALTER TABLE {name} SET (autovacuum_enabled = off)")
    try:
        core.pending_many([{}] * (2 * _CLAIMS))
        core.dispatch.send_due()
        scans, read = due_read(core)
        sent = core.queue.take(DEFAULT_QUEUE)
        assert sent is not None
        claim = core.claim(sent.message)
        for _ in range(_CLAIMS):
            assert claim is not None
            claim = core.finish(claim, Completed(None), (), core.next_claim()).claim

        wait_until(lambda: due_read(core)[0] >= scans + _CLAIMS, "the claims are counted")
        assert (due_read(core)[1] - read) / _CLAIMS < 20
    finally:
        for name in names:
            core.execute(f"ALTER TABLE {name} RESET (autovacuum_enabled)")


def due_read(core: Core) -> tuple[int, int]:
    """Return how often the index of due executions was searched, and the entries read."""
    core.database.engine.dispose()  # sessions report what they did when they end
    with core.database.autocommit() as connection:
        scans, read = connection.execute(_DUE_READ).one()
    return scans, read
