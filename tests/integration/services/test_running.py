"""Attempts in a worker process: notes, heartbeats and stops, on the real database."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from celeriac.db.engine import Database
from celeriac.domain.errors import LeaseLostError
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import Claim, Completed, Retry, WorkerIdentity
from celeriac.domain.executions.states import Status
from celeriac.domain.usage import ModelCall
from celeriac.services.executions.attempt import AttemptRegistry, Registration, StopReason
from celeriac.services.executions.context import AttemptContext
from celeriac.services.executions.event_writer import EventWriter
from celeriac.services.executions.heartbeat import Heartbeat
from celeriac.settings import Settings
from celeriac.wiring.worker import heartbeat_database_of
from tests.integration.services.test_transitions import FAILURE
from tests.support.attempts import AgentAttempt
from tests.support.core import LEASE_SECONDS, Core, describe
from tests.support.forgetful import ForgetfulDatabase
from tests.support.together import together


class Process:
    """What a worker process has, without its threads."""

    def __init__(
        self, core: Core, workdir: Path, *, heartbeat_database: Database | None = None
    ) -> None:
        self.core = core
        self.workdir = workdir
        self.active = AttemptRegistry()
        self.registration = Registration(core.worker())
        self.registration.renewed(paused=False)
        self.heartbeat = Heartbeat(
            heartbeat_database or core.database,
            self.active,
            self.registration,
            lambda worker_id: describe(WorkerIdentity(worker_id, "w")),
            lease_seconds=LEASE_SECONDS,
        )
        self.event_writer = EventWriter(core.database, self.active, core.live)
        self.stops: list[UUID] = []

    def attempt(self, claim: Claim) -> AgentAttempt:
        """Return an attempt whose agent keeps count of being stopped."""
        attempt = AgentAttempt(self.core, claim, self.workdir)
        attempt.on_stop(lambda: self.stops.append(claim.lease.token))
        return attempt


@pytest.fixture
def process(core: Core, tmp_path: Path) -> Process:
    return Process(core, tmp_path)


def emit(attempt: AgentAttempt, *names: str) -> None:
    async def write() -> None:
        for name in names:
            await attempt.context.emit(EventType.CUSTOM, {"name": name})

    asyncio.run(write())


def custom_events(core: Core, claim: Claim) -> list[str]:
    """The names of the events that an agent emitted."""
    return [event.data["name"] for event in core.events(claim.lease.execution_id)
            if event.type is EventType.CUSTOM]  # fmt: skip


def test_notes_are_stored_in_order_and_published_to_watchers(core: Core, process: Process) -> None:
    claim = core.running()
    attempt = process.attempt(claim)
    with process.active.registered(attempt):
        emit(attempt, "a", "b")
        process.event_writer.flush()
        core.live.changes.clear()
        emit(attempt, "c")
        process.event_writer.flush()
        process.event_writer.flush()
    assert custom_events(core, claim) == ["a", "b", "c"]
    assert core.live.changes == [claim.lease.execution_id], "an empty batch was published"


def test_an_attempt_serves_several_loops_at_once(core: Core, process: Process) -> None:
    claim = core.running()
    attempt = process.attempt(claim)

    def use() -> list[UUID]:
        async def save() -> list[UUID]:
            await attempt.context.emit(EventType.CUSTOM, {"name": "saved"})
            saving = (attempt.context.save_session(state={"step": 1}) for _ in range(5))
            return await asyncio.gather(*saving)

        return asyncio.run(save())

    with process.active.registered(attempt):
        saved = together([use] * 4)
        process.event_writer.flush()
    assert len({session for sessions in saved for session in sessions}) == 1
    assert custom_events(core, claim) == ["saved"] * 4


def test_the_last_batches_go_with_the_end(core: Core, process: Process) -> None:
    claim = core.running()
    attempt = process.attempt(claim)
    with process.active.registered(attempt):
        emit(attempt, "a")
        process.event_writer.flush()
        emit(attempt, "b")
        core.finish(claim, Completed(1), attempt.last_batches(), None)
    assert custom_events(core, claim) == ["a", "b"]
    assert core.event_types(claim.lease.execution_id)[-1] == "completed"


def test_notes_survive_a_database_that_is_away(core: Core, process: Process) -> None:
    claim = core.running()
    attempt = process.attempt(claim)
    broken = ForgetfulDatabase(core.database)
    event_writer = EventWriter(broken, process.active, core.live)
    with process.active.registered(attempt):
        emit(attempt, "a")
        broken.engine.dispose()
        broken.losses = 1
        event_writer.flush()
        emit(attempt, "b")
        event_writer.flush()
        event_writer.flush()
    broken.close()
    assert custom_events(core, claim) == ["a", "b"]
    core.assert_consistent()


async def _charge(*, input_tokens: int = 0, output_tokens: int = 0) -> None:
    ModelCall("p", "m", input_tokens, output_tokens)


UNSTORABLE: dict[str, Callable[[AttemptContext], Coroutine[Any, Any, None]]] = {
    "progress that is no number": lambda context: context.progress("much"),  # type: ignore[arg-type]
    "a total that is no number": lambda context: context.progress(1, "much"),  # type: ignore[arg-type]
    "progress that is NaN": lambda context: context.progress(float("nan")),
    "an infinite total": lambda context: context.progress(1, float("inf")),
    "NaN": lambda context: context.emit(EventType.CUSTOM, {"name": float("nan")}),
    "an integer beyond 64 bits": lambda context: context.emit(EventType.CUSTOM, {"n": 2**63}),
    "equal keys": lambda context: context.emit(EventType.CUSTOM, {"1": 1, 1: 2}),  # type: ignore[dict-item]
    "an object": lambda context: context.emit(EventType.CUSTOM, {"name": object()}),
    "a lone surrogate": lambda context: context.emit(EventType.CUSTOM, {"name": "\udce9"}),
    "too many tokens": lambda _: _charge(input_tokens=2**40),
    "negative tokens": lambda _: _charge(output_tokens=-1),
}


@pytest.mark.parametrize("what", UNSTORABLE)
def test_what_can_t_be_stored_is_refused_where_it_is_told(
    core: Core, process: Process, what: str
) -> None:
    attempt = process.attempt(core.running())
    with pytest.raises((TypeError, ValueError)):
        asyncio.run(UNSTORABLE[what](attempt.context))
    assert attempt.next_batch() is None


def test_odd_texts_are_stored(core: Core, process: Process) -> None:
    claim = core.running()
    attempt = process.attempt(claim)

    async def write() -> None:
        await attempt.context.progress(1, 2, "nul \x00 and \udce9")
        await attempt.context.charge(ModelCall("p\x00", "m\udce9", 1, 1, finish_reason="\x00"))
        await attempt.context.emit(EventType.CUSTOM, {"name": "\x00"})

    asyncio.run(write())
    with process.active.registered(attempt):
        process.event_writer.flush()
    stored = core.get(claim.lease.execution_id)
    assert stored.progress_note == "nul � and ?"
    assert stored.model_call_count == 1
    assert custom_events(core, claim) == ["�"]


def test_a_page_that_the_database_refuses_costs_no_other_agent(
    core: Core, process: Process
) -> None:
    claims = [core.running() for _ in range(3)]
    attempts = [process.attempt(claim) for claim in claims]
    core.execute(  # a fault of the database's, of a kind that nobody has thought of
        "ALTER TABLE events ADD CONSTRAINT odd CHECK (data->>'name' IS DISTINCT FROM 'odd')"
    )
    try:
        with (
            process.active.registered(attempts[0]),
            process.active.registered(attempts[1]),
            process.active.registered(attempts[2]),
        ):
            emit(attempts[0], "a")
            emit(attempts[1], "odd")
            emit(attempts[2], "c")
            process.event_writer.flush()
            emit(attempts[1], "b")
            process.event_writer.flush()
    finally:
        core.execute("ALTER TABLE events DROP CONSTRAINT odd")
    assert [custom_events(core, claim) for claim in claims] == [["a"], ["b"], ["c"]]
    core.assert_consistent()


def test_a_heartbeat_renews_and_brings_word_of_cancellations(core: Core, process: Process) -> None:
    claim, cancelled = core.running(), core.running()
    attempts = [process.attempt(claim), process.attempt(cancelled)]
    core.cancel(core.actor, [cancelled.lease.execution_id])
    core.pass_time(LEASE_SECONDS + 5)
    with process.active.registered(attempts[0]), process.active.registered(attempts[1]):
        process.heartbeat.beat()
        process.heartbeat.beat()
    assert core.rescue() == 0, "a lease was not renewed"
    assert [attempt.stop_reason for attempt in attempts] == [None, StopReason.CANCELLED]
    assert process.stops == [cancelled.lease.token], "the agent was stopped more than once"


def test_a_lost_lease_stops_its_attempt_and_refuses_its_notes(core: Core, process: Process) -> None:
    claim = core.running()
    attempt = process.attempt(claim)
    core.pass_time(LEASE_SECONDS + 1)
    core.rescue()
    with process.active.registered(attempt):
        emit(attempt, "too late")
        process.event_writer.flush()
        assert attempt.stop_reason is StopReason.LEASE_LOST
        with pytest.raises(LeaseLostError):
            emit(attempt, "later still")
    assert custom_events(core, claim) == []


def test_a_lost_lease_beats_other_reasons(core: Core, process: Process) -> None:
    attempt = process.attempt(core.running())
    assert attempt.stop(StopReason.CANCELLED)
    assert not attempt.stop(StopReason.LEASE_LOST)
    attempt.stop(StopReason.SHUTDOWN)
    assert attempt.stop_reason is StopReason.LEASE_LOST
    assert len(process.stops) == 1


@pytest.fixture
def retried(core: Core) -> tuple[Claim, Claim]:
    """Two claims of the same execution, one after the other."""
    first = core.running()
    core.end(first, Retry(FAILURE, 0.0))
    core.dispatch.send_due()
    second = core.claim(core.message(first.lease.execution_id))
    assert second is not None
    return first, second


def test_the_next_attempt_of_an_execution_is_not_stopped_for_the_last(
    core: Core, process: Process, retried: tuple[Claim, Claim], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The heartbeat asks about the first, and by the answer the second has begun here."""
    first, second = (process.attempt(claim) for claim in retried)
    monkeypatch.setattr(process.active, "all", lambda: [first])
    with process.active.registered(second):
        process.heartbeat.beat()
        assert first.stop_reason is StopReason.LEASE_LOST
        assert second.stop_reason is None, "the wrong attempt was stopped"


def test_an_attempt_that_was_overtaken_in_its_own_process_makes_way(
    core: Core, process: Process, retried: tuple[Claim, Claim]
) -> None:
    first, second = (process.attempt(claim) for claim in retried)
    with process.active.registered(first):
        with process.active.registered(second):
            assert first.stop_reason is StopReason.LEASE_LOST
            assert process.active.all() == [second]
        assert len(process.active) == 0
    assert core.status(second.lease.execution_id) is Status.RUNNING


@pytest.mark.parametrize(("lease_seconds", "wanted"), [(8.0, "2000"), (3600.0, "25000")])
def test_the_connection_of_a_heartbeat_is_given_up_within_a_quarter_of_a_lease(
    core: Core, lease_seconds: float, wanted: str
) -> None:
    settings = Settings.load()
    worker = settings.worker.model_copy(update={"lease_seconds": lease_seconds})
    url = core.database.engine.url.render_as_string(hide_password=False)
    database = heartbeat_database_of(
        settings.model_copy(update={"worker": worker, "database_url": url})
    )
    with database.autocommit() as connection:
        driver = connection.connection.dbapi_connection
        assert driver is not None
        assert driver.info.get_parameters()["tcp_user_timeout"] == wanted
    database.close()


def test_an_event_that_is_too_large_is_refused_at_once(core: Core, process: Process) -> None:
    claim = core.running()
    attempt = process.attempt(claim)
    with pytest.raises(TypeError, match=r"an event of 9,000,0\d\d characters"):
        emit(attempt, "x" * 9_000_000)
    emit(attempt, "small")
    with process.active.registered(attempt):
        process.event_writer.flush()
    names = [
        each.data["name"] for each in core.events(claim.lease.execution_id) if each.data.get("name")
    ]
    assert names == ["small"]
