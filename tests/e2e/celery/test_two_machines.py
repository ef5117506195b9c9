"""An execution that begins on one machine, which is lost, and ends on another one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac.client import Client
from celeriac.domain.agents import ClaudeAgent, Permission
from celeriac.domain.executions.states import Status
from tests.support import anthropic_scenes
from tests.support.anthropic_server import AnthropicServer
from tests.support.fleet import UNHURRIED, Fleet, running_fleet
from tests.support.fleet_reports import FLEET
from tests.support.programs import Program
from tests.support.servers import PostgresServer, ValkeyServer
from tests.support.tables import found_in_tables

VALUE = "shop-Zq8mN2-token"


@pytest.fixture
def two(
    request: pytest.FixtureRequest,
    postgres_server: PostgresServer,
    migrated: str,
    valkey: ValkeyServer,
    tmp_path: Path,
) -> Iterator[Fleet]:
    """A fleet without processes, whose keys in Valkey are its own."""
    database = postgres_server.fresh_database(migrated)
    url = postgres_server.url(database)
    with running_fleet(
        tmp_path, database_url=url, redis_url=valkey.url(), key_prefix="two:"
    ) as fleet:
        request.node.stash[FLEET] = fleet
        yield fleet
    postgres_server.drop_database(database)


@pytest.mark.requirement("A12", "F25")
def test_another_machine_continues_with_files_conversation_and_secrets(
    two: Fleet, anthropic: AnthropicServer, tmp_path: Path
) -> None:
    store = {"CELERIAC_OBJECT_STORE": (tmp_path / "store").as_uri()}

    def machine(name: str) -> Program:
        options = {
            **UNHURRIED,
            **store,
            "ANTHROPIC_BASE_URL": anthropic.base_url,
            "ANTHROPIC_API_KEY": anthropic_scenes.KEY,
            "CELERIAC_HOME": str(tmp_path / name),
            "CELERIAC_WORKER_LEASE_SECONDS": "4",
        }
        return two.worker(name, slots=8, **options)

    two.beat(**store)
    one = machine("one")
    with Client(two.address_of(two.api(**store)), two.key()) as client:
        client.secrets.create("shop", VALUE)
        for name, spec in (
            ("write", ClaudeAgent(model="claude-test", tools=("Bash",), allowed_tools=("Bash",))),
            (
                "ask",
                ClaudeAgent(
                    model="claude-test",
                    tools=("Bash",),
                    permission=Permission.ASK,
                    secrets=({"name": "shop", "variable": "SHOP_TOKEN"},),  # type: ignore[arg-type]
                ),
            ),
        ):
            client.agents.create(name, spec)
            client.tasks.create(name, name, {"prompt": "{{ prompt }}"})
        first = client.executions.run(
            "write", {"prompt": "[shell] |mkdir -p deep; echo one > deep/one.txt|"}, timeout=60
        )
        assert first.status is Status.COMPLETED, first.error_message
        assert first.session_id is not None
        command = "cat deep/one.txt; echo $SHOP_TOKEN > token.txt; cat token.txt; pwd"
        parked = client.executions.execute(
            "ask", {"prompt": f"[shell] |{command}|"}, session_id=first.session_id
        )
        two.wait_status(parked.execution_id, Status.WAITING)
        one.kill()
        (tmp_path / "one").rename(tmp_path / "lost")
        machine("other")
        (question,) = client.approvals.list(execution_id=parked.execution_id)
        client.approvals.answer(question.id, approved=True)
        (done,) = two.wait_terminal([parked.execution_id], within=60)

        assert done.status is Status.COMPLETED, done.error_message
        work = tmp_path / "other" / "sessions" / str(first.session_id) / "work"
        result = str(client.executions.get(parked.execution_id).result)
        assert result.split() == ["one", "***", str(work)]
        assert (work / "token.txt").read_text().strip() == VALUE, "files are not masked"
        client.sessions.files(first.session_id).download("deep/one.txt", tmp_path / "got")
        assert (tmp_path / "got").read_text() == "one\n"
    assert not (tmp_path / "one").exists()
    assert found_in_tables(two.container, VALUE, str(tmp_path / "one" / "sessions")) == []
    logs = [*(tmp_path / "other").rglob("*.log"), *(tmp_path / "lost").rglob("*.log")]
    assert logs
    assert all(VALUE not in each.read_text() for each in logs)
