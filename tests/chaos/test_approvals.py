"""A question outlasts everything: worker, keeper, API, PostgreSQL and Valkey."""

from collections.abc import Iterator
from uuid import UUID

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from celeriac import wire
from celeriac.client import Client
from celeriac.domain.agents import LlmAgent
from celeriac.domain.executions.states import Status
from celeriac.domain.tasks import Limits
from celeriac.kit.json_types import dumps
from tests.support.fixtures import migrated_database
from tests.support.fleet import Fleet, running_fleet
from tests.support.http_server import serving
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


class Hook:
    """A webhook that keeps the links that it is sent, by their questions."""

    def __init__(self) -> None:
        self.links: dict[UUID, str] = {}
        self.url = ""

    def app(self) -> Starlette:
        async def take(request: Request) -> Response:
            told = await request.json()
            self.links[UUID(told["approval"]["id"])] = told["links"]["answer"]
            return Response(status_code=204)

        return Starlette(routes=[Route("/", take, methods=["POST"])])


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()
    with serving(hook.app()) as url:
        hook.url = url
        yield hook


def the_question(client: Client, execution_id: UUID) -> wire.Approval:
    """Wait until an execution asks, and return what."""
    wait_until(lambda: list(client.approvals.list(execution_id=execution_id)), "the execution asks")
    (question,) = client.approvals.list(execution_id=execution_id)
    return question


@pytest.mark.requirement("A12")
def test_asked_then_all_is_killed_and_answered_a_while_later(
    fleet: Fleet,
    own_postgres: PostgresServer,
    valkey: ValkeyServer,
    scripted: ModelServer,
    hook: Hook,
) -> None:
    providers = dumps({"scripted": {"base_url": scripted.base_url, "api_key": KEY}})
    token = fleet.key()
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
    address = fleet.address_of(fleet.api("api2"))
    fleet.beat(
        "beat2",
        CELERIAC_PUBLIC_URL=address,
        CELERIAC_APPROVALS_WEBHOOK=hook.url,
        CELERIAC_APPROVALS_WEBHOOK_SECRET="shared with the receiver",
        CELERIAC_OUTBOUND_ALLOW_HOSTS="127.0.0.1",
    )
    fleet.lasting_worker("w2", CELERIAC_PROVIDERS=providers)
    with Client(address, token) as client:
        wait_until(
            lambda: all(fleet.get(each).attempt == 2 for each in in_place),
            "those that asked in their places ask again",
        )
        for execution_id, approval_id in asked.items():
            assert the_question(client, execution_id).id == approval_id, "it is the same question"
        wait_until(lambda: hook.links.keys() >= set(asked.values()), "people are told of all")
        get_by_link = hook.links[asked[parked]]
        form = {"decision": "approve", "value": "Monday"}
        thanks = httpx.post(get_by_link, data=form, headers={"Accept": "text/html"}, timeout=30)
        assert "Thank you" in thanks.text
        for execution_id in in_place:
            client.approvals.answer(asked[execution_id], approved=True, value="Monday")
        done = fleet.wait_terminal([parked, *in_place])

    assert {(each.status, each.result) for each in done} == {(Status.COMPLETED, "Monday")}
    assert [(each.attempt, each.crash_count) for each in done] == [(2, 0), (2, 1), (2, 1)]
    for each in done:
        kinds = fleet.event_types(each.id)
        counts = [kinds.count(f"approval_{what}") for what in ("asked", "answered")]
        assert (counts, kinds.count("completed")) == ([1, 1], 1)
