"""MCP servers that aren't there, don't work, or don't want to end."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from celeriac.agents.llm.runner import LlmRunner
from celeriac.agents.mcp import connection
from celeriac.domain.agents import McpServer
from celeriac.domain.errors import AgentMisconfiguredError, ToolServerError
from celeriac.domain.executions.events import EventType
from celeriac.kit.processes import identify, still_running
from tests.support.llm_jobs import llm_job
from tests.support.programs import REPOSITORY
from tests.support.run_context import RecordingContext
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio


def tools(**entry: Any) -> dict[str, Any]:
    return {"mcp_servers": (McpServer(**entry),)}


def programs() -> list[psutil.Process]:
    """The MCP servers that this process has started, and what they have."""
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if child.status() != psutil.STATUS_ZOMBIE
        and ("mcp_" in " ".join(child.cmdline()) or child.name() == "sleep")
    ]


@pytest.mark.parametrize(
    ("entry", "field", "message"),
    [
        ({"name": "unknown"}, "mcp_servers.0.name", "'unknown' isn't configured .* away, .*desk"),
        (
            {"name": "schemas", "allowed_tools": ("god",)},
            "mcp_servers.0.allowed_tools",
            "'schemas' has no tool 'god'. It has: an unfit .* good, remote, wrong",
        ),
        (
            {"name": "schemas", "approve_tools": ("g?", "delete")},
            "mcp_servers.0.approve_tools",
            "'schemas' has no tool 'delete'",
        ),
        (
            {"name": "schemas", "allowed_tools": ("wrong",)},
            "mcp_servers.0.allowed_tools",
            "'wrong' of the MCP server 'schemas' can't be used: .*not a valid JSON Schema",
        ),
        ({"name": "many"}, "mcp_servers.0.allowed_tools", "'many' offers 200 tools"),
        (
            {"name": "own", "url": "http://127.0.0.1:9/mcp"},
            "mcp_servers.0.url",
            "'own' can't be reached: 127.0.0.1 is not on the public internet",
        ),
    ],
)
async def test_a_wrong_entry_of_an_agent_is_reported_with_its_field(
    runner: LlmRunner, context: RecordingContext, entry: dict[str, Any], field: str, message: str
) -> None:
    with pytest.raises(AgentMisconfiguredError, match=message) as caught:
        await runner.run(llm_job("plain", **tools(**entry)), context)

    assert caught.value.details["field"] == field
    assert context.calls == [], "no model is asked"
    assert programs() == []


async def test_two_servers_of_one_name_are_refused(
    runner: LlmRunner, context: RecordingContext
) -> None:
    twice = (McpServer(name="tools"), McpServer(name="tools"))

    with pytest.raises(AgentMisconfiguredError, match="two MCP servers named 'tools'"):
        await runner.run(llm_job("plain", mcp_servers=twice), context)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "'nowhere' can't be used: .*it exited with 2"),
        ("exits", r"'exits' can't be used: .*it exited with 1; its stderr ends with: no licence"),
        ("silent", "'silent' is not ready after 0.5 seconds"),
        ("unlisted", r"'unlisted' can't be used: it sent invalid MCP \(tools\.0\."),
        ("away", "'away' can't be reached: 127.0.0.1 can't be reached"),
    ],
)
async def test_a_server_that_does_not_work_fails_the_attempt_and_is_named(
    runner: LlmRunner,
    context: RecordingContext,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    message: str,
) -> None:
    if name == "silent":
        monkeypatch.setattr(connection, "START_SECONDS", 0.5)

    with pytest.raises(ToolServerError, match=message) as caught:
        await runner.run(llm_job("plain", **tools(name=name)), context)

    assert caught.value.details == {"server": name, "field": "mcp_servers.0"}
    assert programs() == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("tools__die {}", "'tools' was disconnected.*I give up"),
        ("flood__good {}", "'flood' was disconnected.*a message of more than 16,777,216 bytes"),
    ],
)
async def test_a_server_that_breaks_off_fails_the_attempt(
    runner: LlmRunner, context: RecordingContext, call: str, message: str
) -> None:
    with pytest.raises(ToolServerError, match=message):
        await runner.run(llm_job(f"use {call}", **tools(name=call.partition("__")[0])), context)

    *_, (kind, data) = context.events
    assert (kind, data["failed"]) == (EventType.TOOL_RESULT, True)
    assert programs() == []


async def test_what_a_server_writes_to_stderr_is_in_the_log(
    runner: LlmRunner, context: RecordingContext
) -> None:
    with pytest.raises(ToolServerError):
        await runner.run(llm_job("plain", **tools(name="exits")), context)

    assert ("no licence", "mcp:exits") in [
        (line["message"], line["source"]) for line in context.logged()
    ]


@pytest.mark.requirement("C5")
async def test_a_cancelled_run_ends_its_servers_and_their_children(
    runner: LlmRunner, context: RecordingContext
) -> None:
    servers = (McpServer(name="tools"), McpServer(name="stubborn"))
    before = asyncio.all_tasks()
    run = asyncio.create_task(
        runner.run(llm_job('use tools__wait {"seconds": 600}', mcp_servers=servers), context)
    )
    await asyncio.to_thread(
        wait_until,
        lambda: any(program.name() == "sleep" for program in programs()),
        "the tool has started a child of its own",
    )

    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    assert programs() == []
    assert asyncio.all_tasks() <= before, "no task remains"


async def test_a_run_that_is_cancelled_while_a_server_starts_leaves_nothing(
    runner: LlmRunner, context: RecordingContext
) -> None:
    run = asyncio.create_task(runner.run(llm_job("plain", **tools(name="silent")), context))
    await asyncio.to_thread(wait_until, programs, "the server is started")

    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    assert programs() == []


def test_no_server_outlives_a_worker_that_is_killed(tmp_path: Path) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-m", "tests.support.mcp_holder", str(tmp_path)], cwd=REPOSITORY
    )

    def family() -> list[psutil.Process]:
        return psutil.Process(worker.pid).children(recursive=True)

    wait_until(
        lambda: any(each.name() == "sleep" for each in family()),
        "the tool has started a child of its own",
    )
    left = [identify(each.pid) for each in family()]
    assert len(left) >= 2

    worker.kill()
    worker.wait()

    wait_until(
        lambda: not any(each and still_running(each) for each in left), "the server is gone, too"
    )
