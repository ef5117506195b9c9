"""A rolling upgrade: `pre`, the programs of the next release, `post`, amid executions (ADR 28)."""

import signal
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.client import Client
from celeriac.db import migrate
from celeriac.domain.executions.states import Status
from tests.support.fleet import UNHURRIED, Fleet
from tests.support.migrations import next_release
from tests.support.programs import Program
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("F1")

_RUNNING = 4
_SLOTS = _RUNNING + 4
_MANY = 8


def test_all_programs_are_replaced_amid_executions(fleet: Fleet, tmp_path: Path) -> None:
    new = {**UNHURRIED, **next_release(tmp_path)}
    api, beat = fleet.api(**UNHURRIED), fleet.beat(**UNHURRIED)
    worker = fleet.worker(slots=_SLOTS, **UNHURRIED)
    hold, noop = fleet.task("talk"), fleet.task("noop")
    held = [
        fleet.submit(hold, diary=str(fleet.diary), gate=str(fleet.gate)) for _ in range(_RUNNING)
    ]
    wait_until(lambda: len(fleet.diary_lines()) == _RUNNING, "all run")
    through: list[UUID] = []
    migration = _upgrade(fleet, "pre", new)
    while migration.exit_code is None or not through:
        through.append(fleet.submit(noop))
        fleet.wait_terminal(through)
    assert migration.exit_code == 0, migration.output()
    with fleet.container.database.autocommit() as connection:
        found = migrate.schema(connection)
    assert (found.up_to_date, found.usable) == (False, True), "it was applied"

    new_api, new_beat = fleet.api("api-2", **new), fleet.beat("beat-2", **new)
    fleet.worker("w2", slots=_SLOTS, **new)
    versions = text("SELECT count(DISTINCT version) FROM workers WHERE stopped_at IS NULL")
    assert fleet.scalar(versions) == 2, "workers of both releases are alive"
    by_old, by_new = (_executes(fleet, each, noop) for each in (api, new_api))
    both = [*by_old(), *by_new()]
    migration = _upgrade(fleet, "post", new)
    wait_until(lambda: "older workers live" in migration.output(), "it waits for the older worker")
    for program in (worker, beat, api):
        program.terminate()
    both += by_new()
    assert [each.wait_end() for each in (worker, beat, migration)] == [0, 0, 0]
    assert api.wait_end() == -signal.SIGTERM, "uvicorn repeats the signal after a clean end"
    dropped = text("SELECT count(*) FROM pg_class WHERE relname = 'ix_executions_truncated'")
    assert fleet.scalar(dropped) == 0, "it was applied"

    after = by_new()
    wait_until(lambda: len(fleet.diary_lines()) == 2 * _RUNNING, "the new worker goes on with them")
    fleet.open_gate()
    _assert_all_ran_once(fleet, handed_back=held, others=[*through, *both, *after])
    assert len(fleet.diary_lines()) == 2 * _RUNNING, "an attempt was made twice"
    assert new_beat.exit_code is None


def _upgrade(fleet: Fleet, phase: str, env: dict[str, str]) -> Program:
    """Start the migrations of the next release, as an operator would."""
    command = ["-m", "celeriac", "db", "upgrade", "--phase", phase]
    return fleet.program(f"upgrade-{phase}", command, **env)


def _executes(fleet: Fleet, api: Program, task: UUID) -> Callable[[], list[UUID]]:
    """Return what has an API start a few executions."""
    address, token = fleet.address_of(api), fleet.key()

    def execute() -> list[UUID]:
        with Client(address, token) as client:
            return [client.executions.execute(task, {}).execution_id for _ in range(_MANY)]

    return execute


def _assert_all_ran_once(
    fleet: Fleet, *, handed_back: Sequence[UUID], others: Sequence[UUID]
) -> None:
    """Check that all complete once, and that the end of a worker counts against none."""
    ended = fleet.wait_terminal([*handed_back, *others])
    assert {(each.status, each.crash_count, each.retry_count) for each in ended} == {
        (Status.COMPLETED, 0, 0)
    }
    assert {each.attempt for each in ended if each.id in handed_back} == {2}
    for each in ended:
        assert Counter(fleet.event_types(each.id))["completed"] == 1
    column = text("SELECT count(*) FROM executions WHERE later = 7")
    assert fleet.scalar(column) == len(ended)
