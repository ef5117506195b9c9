"""`celeriac mcp --http`: one server for many people, each asking with a key of their own."""

import asyncio
import signal
from pathlib import Path

import httpx
import pytest

from celeriac.embedded.home import reserve_port
from tests.e2e.celery.conftest import Person
from tests.support.fleet import Fleet
from tests.support.mcp_clients import Mode, ask, over_http, refusal
from tests.support.programs import Program
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio


def serve(fleet: Fleet, api: httpx.Client, name: str) -> tuple[Program, str]:
    """Start a server that has no key of its own; return it with its address."""
    port = reserve_port()
    arguments = ["-m", "celeriac", "mcp", "--http", "--port", str(port)]
    program = fleet.program(
        name, arguments, CELERIAC_API_URL=str(api.base_url), CELERIAC_API_KEY="not to be used"
    )
    url = f"http://127.0.0.1:{port}/mcp"

    def serves() -> bool:
        assert program.exit_code is None, program.output()
        try:
            return httpx.get(url, trust_env=False, timeout=60).status_code == 401
        except httpx.TransportError:
            return False

    wait_until(serves, "the MCP server answers")
    return program, url


@pytest.fixture(scope="module")
def address(http: httpx.Client, package_fleet: Fleet) -> str:
    """Where a server listens."""
    return serve(package_fleet, http, "mcp")[1]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_each_request_asks_with_its_own_key(
    address: str, ada: Person, bob: Person, worker: Program, mode: Mode
) -> None:
    async with (
        over_http(address, ada.key, mode=mode) as hers,
        over_http(address, bob.key, mode=mode) as his,
        over_http(address, ada.viewer_key, mode=mode) as watching,
    ):
        variables = {"diary": str(ada.directory / "http")}
        accepted = await ask(hers, "execute_task", task="note", variables=variables)
        execution = accepted["execution_id"]
        done = await ask(hers, "wait_for_execution", execution_id=execution)
        assert done["status"] == "completed"

        assert (await ask(watching, "get_execution", execution_id=execution))["ended"]
        assert "[forbidden]" in await refusal(watching, "execute_task", task="note")
        assert "[not_found]" in await refusal(his, "get_execution", execution_id=execution)
        assert (await ask(his, "list_executions"))["executions"] == []


async def test_a_wrong_key_is_reported_by_every_tool(address: str) -> None:
    async with over_http(address, "cel_000000000000_wrong") as client:
        assert "[unauthenticated]" in await refusal(client, "list_tasks")


@pytest.fixture
def own_workspace(http: httpx.Client, ada: Person) -> str:
    """The name of Ada's workspace."""
    headers = {"Authorization": f"Bearer {ada.key}"}
    (own,) = http.get("/api/v1/workspaces", headers=headers).json()["items"]
    return str(own["name"])


async def test_a_request_is_answered_in_the_workspace_that_it_names(
    address: str, ada: Person, own_workspace: str
) -> None:
    async with (
        over_http(address, ada.key, workspace=own_workspace) as there,
        over_http(address, ada.key, workspace="nowhere") as elsewhere,
    ):
        assert (await ask(there, "list_tasks"))["tasks"]
        assert "no member of it" in await refusal(elsewhere, "list_tasks")


@pytest.mark.parametrize(
    "header", [{}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer"}]
)
def test_without_a_key_nothing_is_answered(address: str, header: dict[str, str]) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    answer = httpx.post(address, json=body, headers=header, trust_env=False, timeout=60)

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert "Authorization: Bearer" in answer.json()["error_description"]


def test_a_page_of_somebody_elses_can_not_reach_it(address: str, ada: Person) -> None:
    """A browser that was led here by another name sends that name (DNS rebinding)."""
    headers = {"Authorization": f"Bearer {ada.key}", "Host": "evil.example"}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    answer = httpx.post(address, json=body, headers=headers, trust_env=False, timeout=60)

    assert answer.status_code == 421


def test_a_taken_port_is_reported_before_anything_starts(
    address: str, package_fleet: Fleet, tmp_path: Path
) -> None:
    port = address.removesuffix("/mcp").rpartition(":")[2]
    program = package_fleet.program(
        "mcp-2",
        ["-m", "celeriac", "mcp", "--http", "--port", port],
        CELERIAC_API_URL="http://127.0.0.1:9",
    )

    assert program.wait_end() == 1
    assert f"Port {port} on 127.0.0.1 is in use" in program.output()


async def test_a_stopping_server_does_not_wait_for_waits(
    http: httpx.Client, package_fleet: Fleet, ada: Person, worker: Program
) -> None:
    program, url = serve(package_fleet, http, "mcp-stopped")
    variables = {"diary": str(ada.directory / "d2"), "gate": str(ada.directory / "gate2")}
    async with over_http(url, ada.key) as client:
        accepted = await ask(client, "execute_task", task="hold", variables=variables)
        execution = accepted["execution_id"]
        seen = asyncio.Event()

        async def note(progress: float, total: float | None, message: str | None) -> None:
            seen.set()

        waiting = asyncio.create_task(
            client.call_tool(
                "wait_for_execution",
                {"execution_id": execution, "timeout_seconds": 600},
                progress_callback=note,
            )
        )
        await seen.wait()
        program.terminate()
        ended = await asyncio.to_thread(program.wait_end)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    (ada.directory / "gate2").touch()
    assert ended in {0, -signal.SIGTERM}, program.output()
