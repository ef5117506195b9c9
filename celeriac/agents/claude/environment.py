"""What Claude Code's process and its tools see of the environment."""

from collections.abc import Collection, Mapping
from pathlib import Path

from celeriac.agents.child.confinement import Confinement

_SWITCHES: Mapping[str, str] = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_AUTOUPDATER": "1",
    # An execution ends with its result: nothing goes on behind it.
    "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
    "CLAUDE_CODE_DISABLE_CRON": "1",
    "CLAUDE_CODE_DISABLE_AUTO_MEMORY": "1",
    # Ten by default, which take three minutes; more retries are the task's own.
    "CLAUDE_CODE_MAX_RETRIES": "2",
}


def cli_environment(
    confinement: Confinement,
    names: Collection[str],
    *,
    home: Path,
    base_url: str,
    api_key: str,
) -> dict[str, str]:
    """Return the whole environment of Claude Code, which its tools inherit.

    Of the worker's own that is what programs need and the variables that the agent `names`; `home`
    is the session's own. Raises AgentMisconfiguredError where `names` has one that it may not see.
    """
    return {
        **confinement.environment(names, home=home),
        **_SWITCHES,
        "HOME": str(home),
        "CLAUDE_CONFIG_DIR": str(home),
        "ANTHROPIC_BASE_URL": base_url,
        "ANTHROPIC_API_KEY": api_key,
        "NO_PROXY": "127.0.0.1",
    }
