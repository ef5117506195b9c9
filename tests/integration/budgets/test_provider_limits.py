"""Executions that wait for their provider, without a worker."""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from uuid import UUID

import pytest

from celeriac.domain.errors import ProviderRateLimitedError
from celeriac.domain.executions.model import Execution, Parked
from celeriac.domain.executions.states import Status, WaitingFor
from celeriac.domain.usage import Rate
from celeriac.services.budgets.provider_limits import MAX_PARKS
from celeriac.settings import Settings
from celeriac.settings.sections import ProviderLimit
from tests.support.core import Core
from tests.support.model_server import Exchange
from tests.support.model_worker import ModelWorker, Workers, model_workers, until
from tests.support.spending import admission_of


def greet(exchange: Exchange) -> None:
    exchange.answer("Hello")


def busy(exchange: Exchange) -> None:
    """Send the first request away for half a minute."""
    if exchange.tries == 1:
        exchange.error(429, {"message": "Slow down"}, retry_after="30")
    else:
        exchange.answer("Now.")


SCENES = {"greet": greet, "busy": busy}


@pytest.fixture
def workers(settings: Settings, tmp_path: Path) -> Iterator[Workers]:
    with ExitStack() as stack:
        yield stack.enter_context(model_workers(settings, SCENES, home=tmp_path))


def waiting(worker: ModelWorker, execution_id: UUID) -> Execution:
    row = worker.get(execution_id)
    assert row.status is Status.WAITING, f"{row.status}: {row.error_message}"
    assert row.waiting_for is WaitingFor.PROVIDER_LIMIT
    return row


@pytest.mark.requirement("E6")
def test_an_execution_that_its_provider_sends_away_waits_without_a_worker(
    workers: Workers,
) -> None:
    worker, other = workers(), workers()
    task = worker.task("busy one")
    (first,) = worker.submit(task, 1)
    worker.work()

    row = waiting(worker, first)
    assert row.waiting_until is not None
    assert row.retry_count == 0, "it is no failure"

    (second,) = worker.submit(task, 1)
    worker.work()
    waiting(worker, second)
    assert len(worker.server.received) == 1, "the second was held back without asking"

    worker.pass_waiting()
    other.work()
    assert {worker.get(each).status for each in (first, second)} == {Status.COMPLETED}


def test_where_a_limit_is_set_all_workers_hear_of_a_ban(workers: Workers) -> None:
    limits = {"test/model": ProviderLimit(requests_per_minute=1000)}
    worker, other = workers(provider_limits=limits), workers(provider_limits=limits)
    (first,) = worker.submit(worker.task("busy one"), 1)
    worker.work()
    waiting(worker, first)

    (second,) = worker.submit(worker.task("greet me"), 1)
    other.work()

    waiting(worker, second)
    assert len(worker.server.received) == 1


@pytest.mark.requirement("E6")
def test_what_is_over_a_limit_waits_without_a_worker_and_takes_its_turn(workers: Workers) -> None:
    limits = {"test": ProviderLimit(requests_per_minute=6)}
    worker, other = workers(provider_limits=limits), workers(provider_limits=limits)
    ids = worker.submit(worker.task("greet me"), 10)

    worker.work()
    worker.pass_waiting()
    other.work()

    found = worker.by_status(ids)
    assert len(found[Status.COMPLETED]) == len(worker.server.received) == 6
    assert len(found[Status.WAITING]) == 4
    for each in found[Status.WAITING]:
        waiting(worker, each.id)


def test_tokens_are_limited_too(workers: Workers) -> None:
    limits = {"test/model": ProviderLimit(tokens_per_minute=50)}
    worker = workers(provider_limits=limits)
    ids = worker.submit(worker.task("greet me"), 6)

    until(lambda: len(worker.by_status(ids)[Status.COMPLETED]) == 3, worker.go_on, rounds=5)
    worker.go_on()

    assert len(worker.server.received) == 3, "three calls of fifteen tokens fit, no fourth"


def test_a_provider_that_always_sends_away_is_a_failure_in_the_end(core: Core) -> None:
    limits = admission_of(core.database, {"test": Rate(requests=1)}).limits
    error = ProviderRateLimitedError("Slow down.", provider="test", model="model")
    claim = core.running()
    waits = []

    for _ in range(MAX_PARKS):
        parked = limits.on_rate_limited(claim.lease.execution_id, error)
        assert isinstance(parked, Parked)
        waits.append(parked.seconds)
        core.end(claim, parked)
        core.execute("UPDATE executions SET waiting_until = now()")
        core.recover.resume_due(10)
        claim = core.claim_again(claim)

    assert limits.on_rate_limited(claim.lease.execution_id, error) is None
    assert waits[0] is not None
    assert waits[3] is not None
    assert waits[3] > 4 * waits[0], f"without a word from the provider it waits longer: {waits}"


def dated(exchange: Exchange) -> None:
    """Send the first request away until a time, given as a date."""
    if exchange.tries == 1:
        moment = datetime.now(UTC) + timedelta(seconds=30)
        date = format_datetime(moment, usegmt=True)
        exchange.error(429, {"message": "Slow down"}, retry_after=date)
    else:
        exchange.answer("Now.")


def closed(exchange: Exchange) -> None:
    exchange.error(503, {"message": "Maintenance"}, retry_after="30")


def short(exchange: Exchange) -> None:
    exchange.begin()
    exchange.say("Once upon a")
    exchange.stop("length")


def halved(exchange: Exchange) -> None:
    exchange.begin()
    exchange.say("Half an ans")
    exchange.stop("error")


SCENES |= {"dated": dated, "closed": closed, "short": short, "halved": halved}


def test_a_wait_until_a_date_holds_no_worker(workers: Workers) -> None:
    worker = workers()
    (waits,) = worker.submit(worker.task("dated one"), 1)
    worker.work()

    row = waiting(worker, waits)
    assert row.waiting_until is not None
    assert row.started_at is not None
    assert 25 < (row.waiting_until - row.started_at).total_seconds() < 40
    assert row.retry_count == 0


def test_a_server_that_is_closed_for_a_time_is_not_asked_before_it(workers: Workers) -> None:
    worker = workers()
    (failed,) = worker.submit(worker.task("closed one"), 1)
    worker.work()

    row = worker.get(failed)
    assert (row.status, row.error_code) == (Status.PENDING, "provider_error")
    assert row.started_at is not None
    assert (row.available_at - row.started_at).total_seconds() > 25
    assert len(worker.server.received) == 1, "no slot is held by waiting"


def test_what_the_token_limit_cuts_off_says_so(workers: Workers) -> None:
    worker = workers()
    (cut,) = worker.submit(worker.task("short one"), 1)
    (whole,) = worker.submit(worker.task("greet me"), 1)
    worker.work()

    row = worker.get(cut)
    assert (row.status, row.result, row.truncated) == (Status.COMPLETED, "Once upon a", True)
    assert not worker.get(whole).truncated


def test_half_an_answer_is_never_completed(workers: Workers) -> None:
    worker = workers()
    (half,) = worker.submit(worker.task("halved one"), 1)
    worker.work()

    row = worker.get(half)
    assert (row.status, row.error_code) == (Status.PENDING, "provider_error")
    assert row.result is None
