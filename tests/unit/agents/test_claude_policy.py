"""What an agent's rules say about its tool calls."""

from pathlib import Path

import pytest

from celeriac.agents.claude.policy import Policy, Verdict, server_key
from celeriac.domain.agent import ClaudeAgent, McpServer, Permission

pytestmark = pytest.mark.requirement("A12")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A working directory with a file, a link out of it and one to itself."""
    work = tmp_path / "work"
    (work / "src").mkdir(parents=True)
    (work / "src" / "app.py").touch()
    (tmp_path / "secret").touch()
    (work / "out").symlink_to(tmp_path)
    (work / "loop").symlink_to("loop")
    (work / "home").symlink_to("src")
    return work


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("Read", {"file_path": "src/app.py"}),
        ("Read", {"file_path": "{work}/src/app.py"}),
        ("Read", {"file_path": "home/app.py"}),
        ("Write", {"file_path": "src/../new/file.txt"}),
        ("Glob", {"pattern": "**/*.py"}),
        ("Glob", {"pattern": "src/*.{py,txt}", "path": "{work}"}),
        ("Grep", {"pattern": "../..", "path": "src", "glob": "*.py"}),
        ("Bash", {"command": "cat /etc/hostname"}),
    ],
)
def test_calls_inside_the_working_directory_are_judged_by_the_rules(
    work: Path, tool: str, arguments: dict[str, object]
) -> None:
    policy = Policy(ClaudeAgent(allowed_tools=("*",)), work)
    assert policy.judge(tool, placed(arguments, work)).verdict is Verdict.ALLOW


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("Read", {"file_path": "/etc/passwd"}),
        ("Read", {"file_path": "../secret"}),
        ("Read", {"file_path": "{work}/../secret"}),
        ("Read", {"file_path": "{work}2/secret"}),
        ("Read", {"file_path": "out/secret"}),
        ("Read", {"file_path": "out/work/../secret"}),
        ("Read", {"file_path": "~/secret"}),
        ("Read", {"file_path": "src\0/../../secret"}),
        ("Read", {"file_path": ["../secret"]}),
        ("Write", {"file_path": "out/new"}),
        ("NotebookEdit", {"notebook_path": "../a.ipynb"}),
        ("Glob", {"pattern": "/etc/*"}),
        ("Glob", {"pattern": "src/*/../../../*"}),
        ("Glob", {"pattern": "{..,src}/*"}),
        ("Glob", {"pattern": "out/*"}),
        ("Grep", {"pattern": "x", "path": ".."}),
    ],
)
def test_file_tools_that_lead_out_of_it_are_refused(
    work: Path, tool: str, arguments: dict[str, object]
) -> None:
    policy = Policy(ClaudeAgent(allowed_tools=("*",)), work)
    decision = policy.judge(tool, placed(arguments, work))
    assert decision.verdict is Verdict.DENY
    assert "working directory" in decision.reason


def placed(arguments: dict[str, object], work: Path) -> dict[str, object]:
    return {
        name: value.replace("{work}", str(work)) if isinstance(value, str) else value
        for name, value in arguments.items()
    }


def test_a_denial_beats_an_approval_which_beats_a_rule_that_allows(work: Path) -> None:
    spec = ClaudeAgent(
        allowed_tools=("mcp__crm__*", "Bash"),
        denied_tools=("mcp__crm__drop*",),
        mcp_servers=(
            McpServer(
                name="crm", allowed_tools=("read", "drop_all", "send"), approve_tools=("s*",)
            ),
        ),
    )
    policy = Policy(spec, work)

    def verdict(tool: str) -> Verdict:
        return policy.judge(tool, {}).verdict

    assert verdict("mcp__crm__read") is Verdict.ALLOW
    assert verdict("mcp__crm__send") is Verdict.ASK
    assert verdict("mcp__crm__drop_all") is Verdict.DENY
    assert verdict("mcp__crm__write") is Verdict.DENY, "the agent does not have this tool"
    assert verdict("mcp__other__read") is Verdict.DENY
    assert verdict("Bash") is Verdict.ALLOW
    assert verdict("WebFetch") is Verdict.DENY
    assert verdict("StructuredOutput") is Verdict.ALLOW


def test_what_no_rule_names_is_asked_for_where_the_agent_says_so(work: Path) -> None:
    policy = Policy(ClaudeAgent(permission=Permission.ASK), work)
    assert policy.judge("Bash", {"command": "ls"}).verdict is Verdict.ASK
    assert policy.judge("Write", {"file_path": "../x"}).verdict is Verdict.DENY


def test_names_of_servers_are_those_of_their_tools() -> None:
    assert server_key("my.server-1") == "my_server-1"
