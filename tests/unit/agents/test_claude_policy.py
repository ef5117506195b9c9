"""What an agent's rules say about its tool calls."""

from pathlib import Path

import pytest

from celeriac.agents.claude.permissions import Policy, Verdict, server_key
from celeriac.domain.agents import ClaudeAgent, McpServer, Permission

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
        ("Glob", {"pattern": "src/{a,b}/[id]/**/*.{js,ts}"}),
        ("Glob", {"pattern": ".*"}),
        ("Glob", {"pattern": "*"}),
        ("Glob", {"pattern": "sr*/app.py"}),
        ("Glob", {"pattern": "{work}/src/a name/*"}),
        ("Grep", {"pattern": "../..", "path": "src", "glob": "*.py"}),
        ("Grep", {"pattern": "x", "glob": "!node_modules", "-n": True, "output_mode": "content"}),
        ("Read", {"file_path": "src/$HOME/a, b (1).txt", "limit": 3}),
        ("Read", {"file_path": "src/~x/é.txt"}),
        ("Read", {"file_path": "/proc/self/root{work}/src/app.py"}),
        ("Bash", {"command": "cat /etc/hostname"}),
        ("TodoWrite", {"todos": [{"content": "read /etc/hostname"}]}),
        ("WebFetch", {"url": "https://example.com/", "prompt": "what is there?"}),
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
        ("Grep", {"pattern": "x", "path": "out"}),
        ("Grep", {"pattern": "x", "glob": "../*"}),
        ("Grep", {"pattern": "x", "glob": "!{a,../b}/*"}),
        ("Grep", {"pattern": "x", "glob": "/etc/*"}),
        ("Glob", {"pattern": ""}),
        ("Glob", {}),
        ("Glob", {"pattern": "*", "path": 7}),
        ("Glob", {"pattern": "{.,x}{.,x}/secret"}),
        ("Glob", {"pattern": "src/{.,x}{.,x}/../{.,x}{.,x}/*"}),
        ("Glob", {"pattern": "[.][.]/secret"}),
        ("Glob", {"pattern": "[!a][!a]/secret"}),
        ("Glob", {"pattern": "?./secret"}),
        ("Glob", {"pattern": ".*/secret"}),
        ("Glob", {"pattern": "{/etc,x}/*"}),
        ("Glob", {"pattern": "{x,{y,/etc}}/*"}),
        ("Glob", {"pattern": "**/../../*"}),
        ("Glob", {"pattern": "src//*/../x"}),
        ("Glob", {"pattern": "o*t/secret"}),
        ("Glob", {"pattern": "{o,x}ut/*"}),
        ("Glob", {"pattern": "[o]ut/*"}),
        ("Glob", {"pattern": "*/*/secret"}),
        ("Glob", {"pattern": "/proc/self/root/etc/*"}),
        ("Glob", {"pattern": "{work}/../*"}),
        ("Glob", {"pattern": "*", "path": "out"}),
        ("Read", {"file_path": "/proc/self/root/etc/passwd"}),
        ("Read", {"file_path": "/proc/self/cwd/secret"}),
        ("Read", {"file_path": "file:///etc/passwd"}),
        ("Read", {"file_path": "FILE:/etc/passwd"}),
        ("Read", {"file_path": "x" * 5_000}),
        ("MultiEdit", {"file_path": "../x", "edits": []}),
        ("NotebookRead", {"notebook_path": "../a.ipynb"}),
        ("LS", {"path": ".."}),
        ("LSP", {"operation": "hover", "filePath": "../x"}),
        ("Workflow", {"scriptPath": "../x.js"}),
        ("EnterWorktree", {"name": "x"}),
        ("Agent", {"prompt": "x", "isolation": "worktree"}),
        ("SendUserFile", {"files": ["src/app.py"]}),
        ("NewTool", {"targetPath": "src/app.py"}),
    ],
)
def test_file_tools_that_lead_out_of_it_are_refused(
    work: Path, tool: str, arguments: dict[str, object]
) -> None:
    policy = Policy(ClaudeAgent(allowed_tools=("*",)), work)
    decision = policy.judge(tool, placed(arguments, work))
    assert decision.verdict is Verdict.DENY
    assert "working directory" in decision.reason


UNSEEN = [
    " ", "\t", "\n", "\v", "\f", "\r", "\x1c", "\x85", "\0", "\x1b", "\x7f",
    *map(chr, (0xA0, 0xAD, 0x1680, *range(0x2000, 0x2010), 0x2028, 0x2029, 0x202E, 0x202F, 0x205F,
               0x2060, 0x3000, 0xFEFF, 0xD800, 0xE0001)),
]  # fmt: skip


@pytest.mark.parametrize("unseen", UNSEEN, ids=ascii)
@pytest.mark.parametrize(
    ("tool", "argument"),
    [
        ("Read", "file_path"),
        ("Write", "file_path"),
        ("Edit", "file_path"),
        ("NotebookEdit", "notebook_path"),
        ("Grep", "path"),
        ("Grep", "glob"),
        ("Glob", "path"),
        ("Glob", "pattern"),
    ],
)
def test_paths_with_what_cannot_be_seen_are_refused(
    work: Path, tool: str, argument: str, unseen: str
) -> None:
    policy = Policy(ClaudeAgent(allowed_tools=("*",)), work)
    forms = [f"{unseen}/etc/x", f"{unseen}src", f"src{unseen}", f"{unseen} src"]
    if unseen != " ":
        forms.append(f"src/a{unseen}b")
    for text in forms:
        arguments = {"pattern": "x", argument: text} if tool == "Glob" else {argument: text}
        assert policy.judge(tool, arguments).verdict is Verdict.DENY, text


def test_what_was_checked_is_what_is_used(work: Path) -> None:
    policy = Policy(ClaudeAgent(allowed_tools=("*",)), work)

    def used(tool: str, arguments: dict[str, object], cwd: str | None = None) -> object:
        decision = policy.judge(tool, placed(arguments, work), cwd)
        assert decision.verdict is Verdict.ALLOW, decision
        return decision.arguments

    app = str(work / "src" / "app.py")
    assert used("Read", {"file_path": "home/app.py", "limit": 1}) == {"file_path": app, "limit": 1}
    assert used("Read", {"file_path": "app.py"}, str(work / "src")) == {"file_path": app}
    assert used("Read", {"file_path": "src/app.py"}, "/etc") == {"file_path": app}
    assert used("Read", {"file_path": app}) is None, "nothing to change"
    assert used("Grep", {"pattern": "x"}) == {"pattern": "x", "path": str(work)}
    assert used("LS", {}, str(work / "src")) == {"path": str(work / "src")}
    assert used("Glob", {"pattern": "home/*.py"}) == {"path": str(work / "src"), "pattern": "*.py"}
    assert used("Glob", {"pattern": "{work}/src/**/a"}) == {
        "path": str(work / "src"),
        "pattern": "**/a",
    }
    assert used("Glob", {"pattern": "app.py", "path": "home"}) == {
        "path": str(work / "src"),
        "pattern": "app.py",
    }


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("Read", {"file_path": "src/app.py", "path": "/etc/passwd"}),
        ("Grep", {"pattern": "x", "--pre": "/bin/sh"}),
        ("Glob", {"pattern": "*", "follow": True}),
        ("Write", {"file_path": "src/x", "content": "", "mode": "0777"}),
    ],
)
def test_arguments_that_nobody_knows_are_refused(
    work: Path, tool: str, arguments: dict[str, object]
) -> None:
    policy = Policy(ClaudeAgent(allowed_tools=("*",)), work)
    decision = policy.judge(tool, arguments)
    assert decision.verdict is Verdict.DENY
    assert "may not be used with" in decision.reason


@pytest.mark.parametrize("pattern", ["{" * 2_000, "{a,b}" * 16, "{a,b}" * 500, r"src\/x", r".\./*"])
def test_patterns_that_cannot_be_told_for_sure_are_refused(work: Path, pattern: str) -> None:
    policy = Policy(ClaudeAgent(allowed_tools=("*",)), work)
    assert policy.judge("Glob", {"pattern": pattern}).verdict is Verdict.DENY


def test_tools_of_servers_have_arguments_of_their_own(work: Path) -> None:
    spec = ClaudeAgent(allowed_tools=("mcp__*",), mcp_servers=(McpServer(name="crm"),))
    arguments = {"path": " /etc/x", "isolation": "none"}
    decision = Policy(spec, work).judge("mcp__crm__read", arguments)
    assert (decision.verdict, decision.arguments) == (Verdict.ALLOW, None)


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
