"""Redis behind Sentinel, whose primary is lost amid the work; all keys have a prefix."""

import asyncio
import sys
from collections.abc import Iterator
from uuid import UUID

import pytest

from celeriac.domain.executions.states import Status
from celeriac.kit.json_types import JsonObject
from tests.support.celery_commands import library_user
from tests.support.command_line import CommandLine
from tests.support.fleet import Fleet, nap, naps_under_way
from tests.support.sentinel import SentinelGroup, running_sentinel

pytestmark = pytest.mark.requirement("F10")

PREFIX = "{shop}:"
COUNT = 200
_PING = """
import json
from celeriac.celery import app
print(json.dumps({"answer": app.send_task("celeriac.tasks.monitoring.ping").get(timeout=60)}))
"""


@pytest.fixture
def group() -> Iterator[SentinelGroup]:
    with running_sentinel() as made:
        yield made


@pytest.fixture
def servers(group: SentinelGroup) -> dict[str, str]:
    """The fleet knows Sentinel alone."""
    return {"redis_url": group.url, "key_prefix": PREFIX}


def test_the_primary_is_lost_amid_the_work(fleet: Fleet, group: SentinelGroup) -> None:
    ids = naps_under_way(fleet, COUNT)
    keys = set(group.primary.client().scan_iter())
    assert keys
    assert all(key.startswith(PREFIX) for key in keys), keys

    group.fail_over()
    ids.append(nap(fleet))
    done = fleet.wait_terminal(ids, within=90)
    assert {(each.status, each.attempt) for each in done} == {(Status.COMPLETED, 1)}
    assert len(fleet.diary_lines()) == len(ids), "work was done twice"

    # a cancellation travels through the new primary
    held = fleet.submit(fleet.task("hold"), diary=str(fleet.diary), gate=str(fleet.gate))
    fleet.wait_status(held, Status.RUNNING)
    fleet.container.cancel(fleet.actor, [held])
    assert fleet.wait_terminal([held])[0].status is Status.CANCELLED
    assert asyncio.run(_heard(fleet, held)) == {"text": "more"}
    commands = CommandLine(fleet.home, **fleet.environment())
    findings = commands.run("doctor", "--json").value["findings"]
    levels = {each["subject"]: each["level"] for each in findings}
    assert levels["Redis"] == levels["broker"] == "ok", findings
    assert library_user(fleet, _PING) == {"answer": "pong"}
    kept = set(group.replica.client().scan_iter())
    assert any(key.startswith(f"{PREFIX}results:") for key in kept), kept


async def _heard(fleet: Fleet, execution_id: UUID) -> JsonObject | None:
    """Return live output that is sent through the new primary."""
    watched = fleet.container.watcher.changes(
        execution_id, position=lambda: sys.maxsize, idle_seconds=30
    )
    heard = None
    async with asyncio.timeout(30), watched as changes:
        async for change in changes:
            heard = change.delta
            if heard is not None:
                break
            fleet.container.live.delta(execution_id, {"text": "more"})
    # the watcher closes its connections
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)
    return heard
