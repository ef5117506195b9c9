"""What the SDK is told: an agent's configuration in Claude Code's words."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from claude_agent_sdk import ClaudeAgentOptions

from celeriac.agents.claude.continuation import Continuation
from celeriac.agents.claude.permissions import Permissions
from celeriac.agents.claude.policy import server_key
from celeriac.agents.claude.process import CliProcess
from celeriac.agents.claude.structured import StructuredOutput
from celeriac.domain.agent import ClaudeAgent
from celeriac.kit.jsontypes import dumps

_MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]+")

_FOR_EVER_DAYS = 36_500
"""Sessions are kept until Celeriac's own retention removes them."""


def sdk_options(
    spec: ClaudeAgent,
    start: Continuation,
    *,
    workdir: Path,
    process: CliProcess,
    permissions: Permissions,
    servers: Mapping[str, Any],
    output: StructuredOutput | None,
    on_stderr: Callable[[str], None],
) -> ClaudeAgentOptions:
    """Return the options of one attempt.

    Nothing is taken from settings files, for an agent may have written them. Rules are told to
    the hook, not here: it judges every call. Long and secret values go by files that only the
    attempt has, since any user of the machine may read the arguments of a process.
    """
    return ClaudeAgentOptions(
        cwd=workdir,
        cli_path=process.program,
        env=dict(process.environment),
        setting_sources=[],
        settings=_settings(spec),
        strict_mcp_config=True,
        mcp_servers=(
            process.write_file("mcp.json", dumps({"mcpServers": servers})) if servers else {}
        ),
        model=spec.model,
        system_prompt={"type": "preset", "preset": "claude_code"},
        extra_args=(
            {
                "append-system-prompt-file": str(
                    process.write_file("instructions", spec.instructions)
                )
            }
            if spec.instructions
            else {}
        ),
        tools=list(spec.tools),
        disallowed_tools=[each for each in spec.denied_tools if _PLAIN_NAME.fullmatch(each)],
        skills=[],
        permission_mode="default",
        can_use_tool=permissions.can_use_tool,
        hooks={"PreToolUse": [permissions.matcher()]},
        max_turns=spec.max_turns,
        resume=start.resume,
        fork_session=start.forks,
        output_format=output.output_format if output else None,
        include_partial_messages=True,
        verbatim_prompts=True,
        max_buffer_size=_MAX_MESSAGE_BYTES,
        stderr=on_stderr,
    )


def _settings(spec: ClaudeAgent) -> str:
    """Return Claude Code's settings: above all, that it may run nothing without asking us.

    An open call is taken up before the hook is in force, and Claude Code by itself lets commands
    run that only read; so does a hook that could not answer. A rule to ask stops both.
    """
    tools = [*spec.tools, *(f"mcp__{server_key(each.name)}" for each in spec.mcp_servers)]
    return dumps({"cleanupPeriodDays": _FOR_EVER_DAYS, "permissions": {"ask": tools}})
