"""Runs of Claude Code are recorded and replayed."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from celeriac.agents.claude.runner import ClaudeRunner
from celeriac.agents.mcp.servers import ToolServers
from celeriac.agents.models import AnthropicEndpoint, Prices
from celeriac.domain.executions.options import RunOptions
from celeriac.kit.outbound import OutboundGuard
from tests.support.anthropic_scenes import KEY
from tests.support.claude_jobs import claude_job
from tests.support.confined import confined
from tests.support.run_context import RecordingContext

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("A12")]


async def test_a_recorded_run_is_played_without_a_provider(
    runner: ClaudeRunner,
    context: RecordingContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # leads nowhere, least of all back here
    agent: dict[str, Any] = {"allowed_tools": ("Read", "Write")}
    recorded = await runner.run(
        claude_job("[work] Note it.", options=RunOptions(record=True), **agent), context
    )
    assert KEY not in str(context.recorded)

    nobody = ClaudeRunner(
        sessions_root=tmp_path / "elsewhere",
        upstream=AnthropicEndpoint("https://api.anthropic.com"),
        prices=Prices(),
        servers=ToolServers(guard=OutboundGuard()),
        confinement=confined({"PATH": "/usr/bin:/bin"}),
    )
    playing = RecordingContext(tmp_path)
    playing.played = context.recorded
    played = await nobody.run(
        claude_job("[work] Note it.", options=RunOptions(cassette_id=uuid4()), **agent), playing
    )

    assert played == recorded
    note = tmp_path / "elsewhere" / str(playing.session_id) / "work" / "note.txt"
    assert note.read_text() == "forty-two\n"
