"""What a person approves in place is done where Claude Code stood when it asked."""

from pathlib import Path
from typing import Any, cast

import pytest
from claude_agent_sdk import HookContext, PermissionResultAllow, ToolPermissionContext
from claude_agent_sdk.types import PreToolUseHookInput

from celeriac.agents.claude.permissions import Permissions, Policy, QuestionKeys
from celeriac.domain.agents import ClaudeAgent, Permission
from celeriac.domain.approvals import Answer, Question
from celeriac.services.ports import RunContext

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("A12")]


class Approving:
    """A context whose person approves everything."""

    async def ask(self, question: Question) -> Answer:
        return Answer(approved=True, by="ada")


async def test_a_relative_path_is_resolved_where_the_call_was_made(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    target = str(tmp_path / "sub" / "notes.txt")
    spec = ClaudeAgent(tools=("Write",), permission=Permission.ASK)
    nothing: Any = None
    permissions = Permissions(
        Policy(spec, tmp_path),
        agent_name="writer",
        context=cast(RunContext, Approving()),
        is_alone=nothing,
        answers={},
        keys=QuestionKeys(),
        on_stop=lambda _: None,
    )
    arguments = {"file_path": "notes.txt", "content": "x"}
    call: Any = {
        "hook_event_name": "PreToolUse", "tool_name": "Write", "tool_input": arguments,
        "tool_use_id": "t1", "cwd": str(tmp_path / "sub"), "agent_id": "helper",
    }  # fmt: skip
    asked: Any = await permissions.before_call(
        cast(PreToolUseHookInput, call), "t1", HookContext(signal=None)
    )
    assert asked["hookSpecificOutput"]["permissionDecision"] == "ask"
    context = ToolPermissionContext(tool_use_id="t1")
    allowed = await permissions.can_use_tool("Write", arguments, context)
    assert isinstance(allowed, PermissionResultAllow)
    assert allowed.updated_input is not None
    assert allowed.updated_input["file_path"] == target


def test_a_call_gets_the_same_key_in_an_attempt_that_begins_anew() -> None:
    first, again = QuestionKeys(), QuestionKeys()
    key = first.of("Bash", {"command": "ls", "timeout": 5}, "toolu_1")

    assert again.of("Bash", {"timeout": 5, "command": "ls"}, "toolu_9") == key
    assert again.of("Bash", {"timeout": 5, "command": "ls"}, "toolu_9") == key, "the same call"
    second = again.of("Bash", {"command": "ls", "timeout": 5}, "toolu_10")
    assert second != key, "a further call is another question"
    assert again.of("Bash", {"command": "id"}, "toolu_11") not in {key, second}
    again.free("toolu_9")
    assert again.of("Bash", {"command": "ls", "timeout": 5}, "toolu_12") == key, "nobody was asked"


def test_a_conversation_that_goes_on_does_not_use_an_answer_twice() -> None:
    earlier = QuestionKeys()
    key = earlier.of("Bash", {"command": "ls"}, "toolu_1")
    open_key = earlier.of("Bash", {"command": "id"}, "toolu_2")
    earlier.follow(key)

    later = QuestionKeys(earlier.answered)
    assert later.of("Bash", {"command": "ls"}, "toolu_3") != key
    assert later.of("Bash", {"command": "id"}, "toolu_2") == open_key
