"""Every tool call is judged here: by the agent's rules, then by a person where they say so.

What an agent's rules say about one tool call. No SDK, nobody is asked.

What a person is asked for a tool call, and what their answer makes of the call.

Most calls are asked about as calls. `AskUserQuestion`, Claude Code's own tool to ask people,
becomes a form with a field for each of its questions.
"""

import os
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from itertools import count
from pathlib import Path
from typing import Any

from claude_agent_sdk import (
    HookContext,
    HookInput,
    HookJSONOutput,
    HookMatcher,
    PermissionResultAllow,
    PermissionResultDeny,
    ToolPermissionContext,
)

from celeriac.agents.claude.paths import Arguments, OutsideError, checked_arguments, directory_of
from celeriac.agents.mcp.call_keys import call_digest
from celeriac.agents.mcp.results import sanitize_json
from celeriac.domain.agents import ApprovalPolicy, ClaudeAgent, McpServer, Permission
from celeriac.domain.approvals import Answer, Question, QuestionKind
from celeriac.domain.errors import CeleriacError
from celeriac.kit.json_types import dumps, storable_text
from celeriac.kit.text import clip
from celeriac.kit.threads import FILES
from celeriac.services.ports import RunContext

ASK_TOOL = "AskUserQuestion"

_LONGEST_TITLE = 500

ToolArguments = Mapping[str, Any]


def question_of(
    tool: str, arguments: ToolArguments, *, key: str, agent_name: str, policy: ApprovalPolicy
) -> Question:
    """Return what is asked; `key` stands for this very call."""
    asked = dict(_questions(arguments)) if tool == ASK_TOOL else {}
    title = " ".join(asked) or f"May the agent {agent_name} use {tool}?"
    return Question(
        key=key,
        kind=QuestionKind.FORM if asked else QuestionKind.TOOL,
        title=clip(storable_text(title), _LONGEST_TITLE),
        tool=storable_text(tool),
        arguments=sanitize_json(dict(arguments)),
        schema=_form(asked) if asked else None,
        expires_seconds=policy.expires_seconds,
        on_expiry=policy.on_expiry,
    )


def refusal_of(tool: str, answer: Answer) -> str:
    """Return what the agent is told where a call is not made, or an empty text."""
    note = f" They say: {answer.note}" if answer.note else ""
    if tool == ASK_TOOL:
        if answer.approved and isinstance(answer.value, dict):
            return ""
        return f"Nobody answers the question. Decide by yourself.{note}"
    return "" if answer.approved else f"A person refused this call.{note}"


def changed_arguments(tool: str, arguments: ToolArguments, answer: Answer) -> dict[str, Any] | None:
    """Return the arguments that an approved call is made with; None: its own."""
    if not isinstance(answer.value, dict):
        return None
    if tool != ASK_TOOL:
        return answer.value
    answers = {
        question: ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for question, value in answer.value.items()
    }
    return {**arguments, "answers": answers}


def _questions(arguments: ToolArguments) -> Iterator[tuple[str, Mapping[str, Any]]]:
    questions = arguments.get("questions")
    for each in questions if isinstance(questions, list) else ():
        if isinstance(each, dict) and isinstance(each.get("question"), str):
            yield storable_text(each["question"]), sanitize_json(each)


def _form(asked: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the schema of a form; the offered answers are examples, others may be given."""
    return {
        "type": "object",
        "properties": {question: _field(each) for question, each in asked.items()},
        "required": list(asked),
        "additionalProperties": False,
    }


def _field(question: Mapping[str, Any]) -> dict[str, Any]:
    options = [each for each in question.get("options") or () if isinstance(each, dict)]
    text: dict[str, Any] = {
        "type": "string",
        "examples": [str(each.get("label")) for each in options],
    }
    about = "; ".join(f"{each.get('label')}: {each.get('description', '')}" for each in options)
    field = {"type": "array", "items": text} if question.get("multiSelect") else text
    return {"title": str(question.get("header") or ""), "description": about, **field}


_OWN = frozenset({"StructuredOutput", "ToolSearch"})
"""Tools by which Claude Code talks to itself: the typed answer, finding other tools."""

_UNSAFE_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")


class Verdict(StrEnum):
    """What follows for a call."""

    ALLOW = "allow"
    DENY = "deny"
    ASK = "ask"


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, with its reason for the agent, and the arguments that the call is made with.

    Those are the ones that were checked; None keeps the call's own.
    """

    verdict: Verdict
    reason: str = ""
    arguments: dict[str, Any] | None = None


ALLOWED = Decision(Verdict.ALLOW)


class Policy:
    """The rules of one agent in one working directory.

    A denial beats everything, a call that waits for approval beats a rule that allows it. File
    tools never leave the working directory, whatever the rules say: links are followed first.
    """

    def __init__(self, spec: ClaudeAgent, workdir: Path) -> None:
        """Hold the rules of `spec`; `workdir` is where its file tools may go."""
        self._spec = spec
        self._root = os.path.realpath(workdir)
        self._servers = {f"mcp__{server_key(each.name)}__": each for each in spec.mcp_servers}

    def judge(self, tool: str, arguments: Arguments, cwd: str | None = None) -> Decision:
        """Say what follows for a call of `tool`; `cwd` is where Claude Code stands."""
        permitted = self.check(tool, arguments, cwd)
        if permitted.verdict is Verdict.DENY:
            return permitted
        return replace(self._by_rules(tool), arguments=permitted.arguments)

    def check(self, tool: str, arguments: Arguments, cwd: str | None = None) -> Decision:
        """Say whether a call may be made if a person or a rule wants it, and with what arguments.

        The verdict is ALLOW, or DENY for what no answer of a person changes.
        """
        refusal = self._refusal(tool)
        if refusal:
            return Decision(Verdict.DENY, refusal)
        try:
            checked = checked_arguments(tool, arguments, self._root, directory_of(cwd, self._root))
        except OutsideError as error:
            return Decision(Verdict.DENY, str(error))
        return Decision(Verdict.ALLOW, arguments=checked if checked != arguments else None)

    def _by_rules(self, tool: str) -> Decision:
        if tool in _OWN:
            return ALLOWED
        if self._needs_approval(tool):
            return Decision(Verdict.ASK)
        if _matches(tool, self._spec.allowed_tools):
            return ALLOWED
        if self._spec.permission is Permission.ASK:
            return Decision(Verdict.ASK)
        return Decision(Verdict.DENY, f"This agent may not use {tool}. Do without it.")

    def _refusal(self, tool: str) -> str:
        """Return why a tool is refused whatever a person says, or an empty text."""
        if _matches(tool, self._spec.denied_tools):
            return f"This agent may never use {tool}. Do without it."
        if tool.startswith("mcp__"):
            server, name = self._mcp_tool(tool)
            if server is None:
                return f"{tool} belongs to no MCP server of this agent."
            if server.allowed_tools is not None and not _matches(name, server.allowed_tools):
                return f"This agent may not use {name} of the MCP server {server.name}."
        return ""

    def _needs_approval(self, tool: str) -> bool:
        if tool == ASK_TOOL:
            return True
        server, name = self._mcp_tool(tool)
        return server is not None and _matches(name, server.approve_tools)

    def _mcp_tool(self, tool: str) -> tuple[McpServer | None, str]:
        for prefix, server in self._servers.items():
            if tool.startswith(prefix):
                return server, tool.removeprefix(prefix)
        return None, ""


def server_key(name: str) -> str:
    """Return an MCP server's name as Claude Code writes it in the names of its tools."""
    return _UNSAFE_IN_NAMES.sub("_", name)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


_HOOK_SECONDS = 3_600.0
"""How long a judgement may take: the model has to finish its answer first."""

_ASK_ALONE = (
    "This call needs a person's approval, which can only be asked for when the call stands alone. "
    "Make exactly this call again, with no other tool call beside it."
)


class QuestionKeys:
    """Names the calls that a person is asked about by tool, arguments and number.

    An attempt that begins anew, as after a worker's death, makes calls with other ids: the same
    call gets the same key, and its question or answer is found again.
    """

    def __init__(self, answered: Iterable[str] = ()) -> None:
        """Know the keys whose answers were followed earlier in the conversation."""
        self._answered = dict.fromkeys(answered)
        self._of_calls: dict[str, str] = {}

    @property
    def answered(self) -> list[str]:
        """The keys whose answers the conversation has followed."""
        return list(self._answered)

    def of(self, tool: str, arguments: Mapping[str, Any], call_id: str) -> str:
        """Return the key of a call: the first that no other call of the conversation has."""
        if call_id in self._of_calls:
            return self._of_calls[call_id]
        taken = {*self._answered, *self._of_calls.values()}
        digest = call_digest(tool, sanitize_json(dict(arguments)))
        keys = (f"tool:{digest}:{number}" for number in count(1))
        key = next(key for key in keys if key not in taken)
        if call_id:
            self._of_calls[call_id] = key
        return key

    def free(self, call_id: str) -> None:
        """Let another call have the key: a person was not asked about this one."""
        self._of_calls.pop(call_id, None)

    def follow(self, key: str) -> None:
        """Note that the answer under `key` is followed."""
        self._answered[key] = None


class Permissions:
    """Judges the tool calls of one attempt.

    A call that needs a person ends the attempt: Claude Code keeps it open (its `defer`), the
    question is in `pending`, and the attempt that follows the answer runs or refuses that call.
    This works for a call that is the only one of its answer (`is_alone`). One among several is
    refused once, with the advice to make it alone. If the model ignores this, or the call comes
    from a helper agent, the attempt waits until the question is answered.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        spec: ClaudeAgent,
        agent_name: str,
        context: RunContext,
        is_alone: Callable[[str], Awaitable[bool]],
        answers: Mapping[str, Answer],
        keys: QuestionKeys,
        on_stop: Callable[[Exception], None],
    ) -> None:
        self.pending: Question | None = None
        self._policy = policy
        self._spec = spec
        self._agent_name = agent_name
        self._context = context
        self._is_alone = is_alone
        self._answers = answers
        self._keys = keys
        self._on_stop = on_stop
        self._advised: set[str] = set()
        self._directories: dict[str, str | None] = {}
        """Where Claude Code stood at a call that a person is asked about, by the call's id."""

    def matcher(self) -> HookMatcher:
        """Return the hook for all tools; should it fail, the call is refused."""
        return HookMatcher(hooks=[self.before_call], timeout=_HOOK_SECONDS, on_failure="block")

    async def before_call(
        self, call: HookInput, call_id: str | None, _context: HookContext
    ) -> HookJSONOutput:
        """Judge a call before Claude Code does (its hook PreToolUse)."""
        assert call["hook_event_name"] == "PreToolUse"
        tool, arguments = call["tool_name"], call["tool_input"]
        decision = await FILES.run(
            self._policy.judge, tool, arguments, call.get("cwd")
        )  # it looks into directories
        if decision.verdict is not Verdict.ASK:
            return _output(decision.verdict, decision.reason, decision.arguments)
        number = call_id or call["tool_use_id"]
        self._directories[number] = call.get("cwd")
        question = self._question(tool, arguments, number)
        answer = self._given(question, number)
        if answer is not None:
            self._keys.follow(question.key)
            result = self._follow(answer, tool, arguments, call.get("cwd"))
            if isinstance(result, PermissionResultDeny):
                return _output("deny", result.message)
            return _output("allow", updated=result.updated_input)
        return await self._put(question, number, of_helper=bool(call.get("agent_id")))

    async def _put(self, question: Question, call_id: str, *, of_helper: bool) -> HookJSONOutput:
        """Say how a question is put to a person; `ask` leads to `can_use_tool`, which waits."""
        if of_helper:
            return _output("ask")
        if await self._is_alone(call_id):
            self.pending = question
            return _output("defer")
        same = dumps([question.tool, question.arguments])
        if same in self._advised:
            return _output("ask")
        self._advised.add(same)
        self._keys.free(call_id)
        return _output("deny", _ASK_ALONE)

    async def can_use_tool(
        self, tool: str, arguments: dict[str, Any], call: ToolPermissionContext
    ) -> PermissionResultAllow | PermissionResultDeny:
        """Judge a call that Claude Code itself would ask about."""
        directory = self._directories.get(call.tool_use_id or "")
        decision = await FILES.run(self._policy.judge, tool, arguments, directory)
        if decision.verdict is Verdict.ALLOW:
            return PermissionResultAllow(updated_input=decision.arguments)
        if decision.verdict is Verdict.DENY:
            return PermissionResultDeny(message=decision.reason)
        question = self._question(tool, arguments, call.tool_use_id or "")
        answer = self._given(question, call.tool_use_id or "")
        if answer is None:
            try:
                answer = await self._context.ask(question)
            except CeleriacError as error:
                self._on_stop(error)
                return PermissionResultDeny(message=error.message, interrupt=True)
        self._keys.follow(question.key)
        return self._follow(answer, tool, arguments, directory)

    def _given(self, question: Question, call_id: str) -> Answer | None:
        """Return the answer of an earlier attempt; older releases had the call's id as its key."""
        return self._answers.get(question.key) or self._answers.get(f"tool:{call_id}")

    def _follow(
        self, answer: Answer, tool: str, arguments: Mapping[str, Any], cwd: str | None = None
    ) -> PermissionResultAllow | PermissionResultDeny:
        """Do what a person said; what the rules forbid stays forbidden."""
        message = refusal_of(tool, answer)
        if message:
            return PermissionResultDeny(message=message)
        changed = changed_arguments(tool, arguments, answer)
        decision = self._policy.check(tool, arguments if changed is None else changed, cwd)
        if decision.verdict is Verdict.DENY:
            return PermissionResultDeny(message=decision.reason)
        return PermissionResultAllow(updated_input=decision.arguments or changed)

    def _question(self, tool: str, arguments: Mapping[str, Any], call_id: str) -> Question:
        return question_of(
            tool,
            arguments,
            key=self._keys.of(tool, arguments, call_id),
            agent_name=self._agent_name,
            policy=self._spec.approvals,
        )


def _output(
    decision: str, reason: str = "", updated: dict[str, Any] | None = None
) -> HookJSONOutput:
    specific: dict[str, Any] = {"hookEventName": "PreToolUse", "permissionDecision": decision}
    if reason:
        specific["permissionDecisionReason"] = reason
    if updated is not None:
        specific["updatedInput"] = updated
    return {"hookSpecificOutput": specific}  # type: ignore[typeddict-item]
