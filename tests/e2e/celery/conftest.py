"""One fleet for all of these tests: a worker of every queue, beat, and a user's own tasks."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from celeriac.client import Client
from celeriac.domain.agents import CommandAgent, PythonAgent
from celeriac.kit.json_types import dumps
from tests.support import anthropic_scenes, fleet_agents, plain_tasks
from tests.support.anthropic_server import AnthropicServer
from tests.support.fleet import UNHURRIED, Fleet, running_fleet
from tests.support.fleet_reports import FLEET
from tests.support.model_scenes import KEY, SCENES
from tests.support.model_server import ModelServer
from tests.support.places import temporary_directory
from tests.support.programs import REPOSITORY, Program
from tests.support.servers import PostgresServer, ValkeyServer, running_valkey

OWN_TASKS = ("-I", plain_tasks.MODULE)
_ASK = """
echo '{"type": "ask", "key": "colour", "kind": "question", "title": "Which colour?"}'
read start; read answer; printf '{"type": "result", "value": %s}\\n' "$answer"
"""
COMMANDS = {
    "ask": ["sh", "-c", _ASK],
    "word-count": [str(REPOSITORY / "examples/command/word-count.sh")],
    "family": ["sh", "-c", 'sleep 600 & setsid sleep 601 & echo $$ $! > "$1"; wait', "sh"],
}
"""Programs of the worker `w1`: an example, and one that starts processes and never ends."""

MCP_SERVERS = {"tools": {"command": [sys.executable, "-m", "tests.support.mcp_tools"]}}


@pytest.fixture(scope="package")
def valkey() -> Iterator[ValkeyServer]:
    """A Valkey of our own: the session's is flushed by others."""
    with running_valkey() as server:
        yield server


@pytest.fixture(scope="package")
def package_fleet(
    postgres_server: PostgresServer, migrated: str, valkey: ValkeyServer
) -> Iterator[Fleet]:
    """A fleet without processes."""
    database = postgres_server.fresh_database(migrated)
    with temporary_directory() as home:
        url = postgres_server.url(database)
        with running_fleet(home, database_url=url, redis_url=valkey.url()) as made:
            yield made
    postgres_server.drop_database(database)


@pytest.fixture
def fleet(request: pytest.FixtureRequest, package_fleet: Fleet) -> Fleet:
    """The fleet, known to the test's report."""
    request.node.stash[FLEET] = package_fleet
    return package_fleet


@pytest.fixture(scope="package")
def beat(package_fleet: Fleet) -> Program:
    """The keeper."""
    return package_fleet.beat()


@pytest.fixture(scope="package")
def scripted() -> Iterator[ModelServer]:
    """The model provider `scripted` of the worker `w1`."""
    with ModelServer(SCENES).running() as server:
        yield server


@pytest.fixture(scope="package")
def anthropic() -> Iterator[AnthropicServer]:
    """What Claude Code asks on the worker `w1`."""
    with AnthropicServer(anthropic_scenes.SCENES).running() as server:
        yield server


@pytest.fixture(scope="package")
def worker(
    package_fleet: Fleet, beat: Program, scripted: ModelServer, anthropic: AnthropicServer
) -> Program:
    """The worker `w1`: threads, every queue of ours, and the plain tasks of a user."""
    env = {
        "ANTHROPIC_BASE_URL": anthropic.base_url,
        "ANTHROPIC_API_KEY": anthropic_scenes.KEY,
        "CELERIAC_COMMANDS": dumps(COMMANDS),
        "CELERIAC_MCP_SERVERS": dumps(MCP_SERVERS),
        "CELERIAC_PROVIDERS": dumps({"scripted": {"base_url": scripted.base_url, "api_key": KEY}}),
        **UNHURRIED,
    }
    return package_fleet.worker("w1", slots=8, options=OWN_TASKS, **env)


@pytest.fixture(scope="package")
def http(package_fleet: Fleet) -> Iterator[httpx.Client]:
    """An administrator's client of an API process."""
    token = package_fleet.key()
    address = package_fleet.address_of(package_fleet.api())
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=address, headers=headers, timeout=30) as client:
        yield client


@dataclass(frozen=True)
class Person:
    """A user of the API, with keys of an operator and of a viewer, and a directory for files."""

    name: str
    key: str
    viewer_key: str
    directory: Path


def make_person(http: httpx.Client, name: str, directory: Path) -> Person:
    """Make a user and their keys."""
    user = http.post("/api/v1/users", json={"name": name}).raise_for_status().json()

    def key(role: str) -> str:
        body = {"name": role, "role": role, "user_id": user["id"]}
        made = http.post("/api/v1/api-keys", json=body).raise_for_status()
        return str(made.json()["token"])

    return Person(name, key("operator"), key("viewer"), directory)


@pytest.fixture(scope="package")
def ada(http: httpx.Client, package_fleet: Fleet) -> Person:
    """A user with tasks: `note` and `hold` of `fleet_agents`, and two of programs."""
    person = make_person(http, "ada", package_fleet.home)
    with Client(str(http.base_url), person.key) as client:
        for name, needs in (("note", ["diary"]), ("hold", ["diary", "gate"])):
            spec = PythonAgent(function=f"{fleet_agents.__name__}:{name}")
            client.agents.create(name, spec)
            client.tasks.create(name, name, {"variables_schema": {"required": needs}})
        for name in COMMANDS:
            client.agents.create(name, CommandAgent(command=name))
            client.tasks.create(name, name, {"prompt": "{{ text }}"})
    return person


@pytest.fixture(scope="package")
def bob(http: httpx.Client, package_fleet: Fleet) -> Person:
    """A user who has nothing."""
    return make_person(http, "bob", package_fleet.home)
