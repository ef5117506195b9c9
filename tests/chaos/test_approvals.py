"""A question outlasts everything: worker, keeper, API, PostgreSQL and Valkey."""

from collections.abc import Iterator
from uuid import UUID

import pytest

from celeriac import wire
from celeriac.client import Client
from celeriac.domain.agent import LlmAgent
from celeriac.domain.states import Status
from celeriac.domain.task import Limits
from celeriac.kit.jsontypes import dumps
from celeriac.services.accounts import Accounts
from tests.support.fixtures import migrated_database
from tests.support.fleet import SECRET_KEY, Fleet, running_fleet
from tests.support.model_scenes import KEY, SCENES
from tests.support.model_server import ModelServer
from tests.support.places import temporary_directory
from tests.support.servers import PostgresServer, ValkeyServer, running_postgres
from tests.support.waiting import wait_until

LIMITS = Limits(soft_seconds=300, hard_seconds=310)


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that the test may kill."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def fleet(own_postgres: PostgresServer, valkey: ValkeyServer) -> Iterator[Fleet]:
    """A fleet on it."""
    url = own_postgres.url(migrated_database(own_postgres))
    with (
        temporary_directory() as home,
        running_fleet(home, database_url=url, redis_url=valkey.url()) as made,
    ):
        yield made


@pytest.fixture
def scripted() -> Iterator[ModelServer]:
    with ModelServer(SCENES).running() as server:
        yield server


def the_question(client: Client, execution_id: UUID) -> wire.Approval:
    """Wait until an execution asks, and return what."""
    wait_until(lambda: list(client.approvals.list(execution_id=execution_id)), "the execution asks")
    (question,) = client.approvals.list(execution_id=execution_id)
    return question


@pytest.mark.requirement("A12")
def test_asked_then_all_is_killed_and_answered_a_while_later(
    fleet: Fleet, own_postgres: PostgresServer, valkey: ValkeyServer, scripted: ModelServer
) -> None:
    providers = dumps({"scripted": {"base_url": scripted.base_url, "api_key": KEY}})
    token = Accounts(fleet.container.database, SECRET_KEY).bootstrap_admin().token
    beat, worker = fleet.beat(), fleet.worker(CELERIAC_PROVIDERS=providers)
    api = fleet.api()
    with Client(fleet.address_of(api), token) as client:
        client.agents.create("asking", LlmAgent(model="scripted/model", may_ask=True))
        client.tasks.create("asking", "asking", {"prompt": "{{ prompt }}"})
        prompt = {"prompt": 'use ask_person {"question": "Which day?"}'}
        parked = client.executions.execute("asking", prompt).execution_id
        in_place = [
            fleet.submit(fleet.task(name, limits=LIMITS), diary=str(fleet.diary))
            for name in ("ask", "plain_ask")
        ]
        asked = {each: the_question(client, each).id for each in (parked, *in_place)}
        fleet.wait_status(parked, Status.WAITING)

    for program in (worker, beat, api):
        program.kill()
    valkey.kill()
    own_postgres.kill()
    own_postgres.start()
    valkey.start()
    fleet.beat("beat2")
    fleet.worker("w2", CELERIAC_PROVIDERS=providers)
    with Client(fleet.address_of(fleet.api("api2")), token) as client:
        wait_until(
            lambda: all(fleet.get(each).attempt == 2 for each in in_place),
            "those that asked in their places ask again",
        )
        for execution_id, approval_id in asked.items():
            assert the_question(client, execution_id).id == approval_id, "it is the same question"
        for approval_id in asked.values():
            client.approvals.answer(approval_id, approved=True, value="Monday")
        done = fleet.wait_terminal([parked, *in_place])

    assert {(each.status, each.result) for each in done} == {(Status.COMPLETED, "Monday")}
    assert [(each.attempt, each.crash_count) for each in done] == [(2, 0), (2, 1), (2, 1)]
    for each in done:
        kinds = fleet.event_types(each.id)
        counts = [kinds.count(f"approval_{what}") for what in ("asked", "answered")]
        assert (counts, kinds.count("completed")) == ([1, 1], 1)
