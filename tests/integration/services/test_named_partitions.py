"""Statements open the partitions of what they name, and no others (docs/adr/0052)."""

import re
from collections.abc import Callable
from uuid import UUID, uuid4

from sqlalchemy import Connection

from celeriac.db import retention
from celeriac.db.executions import leases, lifecycle, queries
from celeriac.db.executions.children import any_of
from celeriac.domain.executions.model import Completed, Lease, Message
from celeriac.kit.ids import uuid7
from tests.integration.services.test_plans import grow_old, live_worker
from tests.support.core import Core
from tests.support.rows_read import rows_read

WEEKS = 12


def lease() -> Lease:
    """Return a lease of now, which nobody has."""
    return Lease(uuid7(), 1, uuid4())


def end_several(connection: Connection) -> object:
    ends = [lifecycle.end_values(lease(), Completed(None)) for _ in range(3)]
    return lifecycle.finish_group(connection, ends, counted=False)


def note_several(connection: Connection) -> object:
    return leases.store_batch(
        connection, [leases.PendingWrites(lease(), progress=(1.0, None, "")) for _ in range(3)]
    )


def ids() -> list[UUID]:
    return [uuid7() for _ in range(3)]


BY_IDS: dict[str, Callable[[Connection], object]] = {
    "end several": end_several,
    "store the notes of several": note_several,
    "hold": lambda c: lifecycle.hold(c, ids()),
    "take back what was not sent": lambda c: lifecycle.unqueue(
        c, {each: str(each) for each in ids()}, delay=1.0, reason="test"
    ),
    "read the numbers of events": lambda c: queries.positions(c, ids()),
    "look for parents": lambda c: any_of(c, ids()),
    "forget what ended": lambda c: retention.delete_executions(c, ids()),
    "read one": lambda c: queries.get(c, uuid7(), workspace=None),
    "claim": lambda c: lifecycle.claim(
        c, Message(uuid7(), 0, str(uuid7())), token=uuid4(), worker=live_worker(c)
    ),
}
_PARTITION = r'"Relation Name": "execution\w*_(\d{8})"'


def test_what_names_its_executions_opens_no_other_partitions(core: Core) -> None:
    grow_old(core.database, WEEKS)
    opened = {
        name: [set(re.findall(_PARTITION, plan)) for plan, _ in rows_read(core.database, work)]
        for name, work in BY_IDS.items()
    }
    assert {name for name, plans in opened.items() if max(map(len, plans)) > 1} == set()
    assert all(any(plans) for plans in opened.values()), "partitions were not seen"
