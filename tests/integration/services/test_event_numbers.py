"""Events are numbered 1..n without gaps, whoever writes them at the same time."""

import random
from collections.abc import Sequence
from functools import partial

from celeriac.db.executions import leases
from celeriac.db.executions.leases import PendingWrites
from celeriac.domain.executions.events import EventType, NewEvent
from celeriac.domain.executions.model import Claim, Completed, Lease
from celeriac.domain.executions.states import Status
from celeriac.domain.usage import ModelCall
from tests.support.core import Core
from tests.support.together import together


def page(lease: Lease, *names: str, number: int = 1) -> PendingWrites:
    events = [NewEvent(EventType.CUSTOM, f'{{"name": "{name}"}}') for name in names]
    return PendingWrites(lease, events, number=number)


def record(core: Core, *pages: PendingWrites) -> set[object]:
    with core.database.autocommit() as connection:
        return set(leases.store_batch(connection, pages))


def test_one_statement_numbers_the_events_of_many_executions_in_order(core: Core) -> None:
    claims = [core.running() for _ in range(3)]
    record(core, *(page(claim.lease, "a", "b", "c") for claim in claims))
    record(core, page(claims[1].lease, "d", number=2))
    for claim in claims:
        named = [event for event in core.events(claim.lease.execution_id) if event.data.get("name")]
        wanted = "abcd" if claim is claims[1] else "abc"
        assert "".join(event.data["name"] for event in named) == wanted
        assert [event.seq for event in named] == list(range(4, 4 + len(wanted)))
    core.assert_consistent()


def test_totals_are_counted_with_the_events(core: Core) -> None:
    claim = core.running()
    notes = page(claim.lease, "a")
    kinds = (EventType.MESSAGE, EventType.TOOL_CALL, EventType.TOOL_DENIED)
    notes.events += [NewEvent(kind, "{}") for kind in kinds]
    notes.calls += [ModelCall("p", "m", input_tokens=10, output_tokens=2, cached_tokens=4)] * 2
    notes.progress = (3.0, 10.0, "three")
    record(core, notes)
    record(core, page(claim.lease, "b", number=2))
    row = core.get(claim.lease.execution_id)
    assert (row.message_count, row.tool_call_count, row.model_call_count) == (1, 1, 2)
    assert (row.input_tokens, row.output_tokens, row.cached_tokens) == (20, 4, 8)
    assert (row.denied_tool_count, row.cache_hit_ratio) == (1, 0.4)
    assert (row.progress_done, row.progress_total, row.progress_note) == (3.0, 10.0, "three")


def test_many_writers_leave_no_gap(core: Core) -> None:
    """Notes, heartbeats, a cancellation and a finish on the same executions, all at once."""
    claims = [core.running() for _ in range(6)]
    ids = [claim.lease.execution_id for claim in claims]
    chance = random.Random(7)

    def store(some: Sequence[Claim]) -> None:
        for number in range(1, 11):
            shuffled = chance.sample(some, len(some))
            record(core, *(page(claim.lease, "x", "y", number=number) for claim in shuffled))

    def beat() -> None:
        for _ in range(10):
            with core.database.autocommit() as connection:
                leases.renew(connection, core.workers["w"].id, lease_seconds=30)

    def cancel() -> None:
        for _ in range(5):
            core.cancel(core.actor, chance.sample(ids, 3))

    def finish() -> None:
        for claim in claims:
            core.end(claim, Completed(1))

    halves = [claims[::2], claims[1::2]]
    together([*(partial(store, half) for half in halves), beat, cancel, finish])
    assert {core.status(each) for each in ids} == {Status.COMPLETED}
    core.assert_consistent()


def test_nothing_follows_the_end(core: Core) -> None:
    claims = [core.running() for _ in range(10)]
    together(
        [
            *(lambda each=each: core.end(each, Completed(1)) for each in claims),
            *(lambda each=each: record(core, page(each.lease, "late")) for each in claims),
        ]
    )
    for claim in claims:
        assert core.event_types(claim.lease.execution_id)[-1] == "completed"
    core.assert_consistent()
