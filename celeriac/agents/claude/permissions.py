"""Permission for Claude Code's tool calls: by the agent's rules, or by a person.

Most questions are about a call. `AskUserQuestion`, Claude Code's tool to ask people, becomes a
form with a field for each of its questions.
"""

import os
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from itertools import count
from pathlib import Path
from shlex import quote
from typing import Any

from claude_agent_sdk import (
    HookContext,
    HookInput,
    HookJSONOutput,
    PermissionResultAllow,
    PermissionResultDeny,
    ToolPermissionContext,
)

from celeriac.agents.claude.labelling import OWN_TOOL
from celeriac.agents.claude.paths import Arguments, OutsideError, checked_arguments, directory_of
from celeriac.agents.claude.place import NOWHERE, SessionPlace
from celeriac.agents.claude.transcript import named
from celeriac.agents.mcp.call_keys import call_digest
from celeriac.agents.mcp.results import sanitize_json
from celeriac.domain.agents import ClaudeAgent, McpServer, Permission
from celeriac.domain.approvals import Answer, Question, QuestionKind
from celeriac.domain.errors import CeleriacError
from celeriac.domain.executions.events import EventType
from celeriac.kit.json_types import dumps, storable_text
from celeriac.kit.text import clip
from celeriac.kit.threads import FILES
from celeriac.services.ports import RunContext

ASK_TOOL = "AskUserQuestion"

_LONGEST_TITLE = 500


def _questions(arguments: Arguments) -> Iterator[tuple[str, Mapping[str, Any]]]:
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
"""Claude Code's internal tools: the typed answer, and the search for tools."""

_UNSAFE_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")


class Verdict(StrEnum):
    """What happens to a call."""

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


class Policy:
    """The rules of one agent in one working directory.

    A denial beats everything, a call that waits for approval beats a rule that allows it. File
    tools never leave the working directory, whatever the rules say: links are followed first.
    """

    def __init__(self, spec: ClaudeAgent, workdir: Path) -> None:
        """Hold the rules of `spec`; `workdir` is where its file tools may go."""
        self.spec = spec
        self._root = os.path.realpath(workdir)
        self._servers = {f"mcp__{server_key(each.name)}__": each for each in spec.mcp_servers}

    def inside(self, cwd: object) -> str | None:
        """Return where in the working directory `cwd` is; None for the directory itself."""
        place = directory_of(cwd, self._root)
        return None if place == self._root else os.path.relpath(place, self._root)

    def place_of(self, inner: str) -> str:
        """Return the path of what `inside` has returned, which may lead elsewhere by now."""
        return os.path.join(self._root, inner)  # noqa: PTH118 - as Claude Code has it

    def judge(self, tool: str, arguments: Arguments, cwd: str | None = None) -> Decision:
        """Return the decision about a call of `tool`; `cwd` is Claude Code's directory."""
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
        if tool in _OWN or self._is_label_tool(tool):
            return Decision(Verdict.ALLOW)
        server, name = self._mcp_tool(tool)
        if tool == ASK_TOOL or (server is not None and _matches(name, server.approve_tools)):
            return Decision(Verdict.ASK)
        if _matches(tool, self.spec.allowed_tools):
            return Decision(Verdict.ALLOW)
        if self.spec.permission is Permission.ASK:
            return Decision(Verdict.ASK)
        return Decision(Verdict.DENY, f"This agent may not use {tool}. Do without it.")

    def _refusal(self, tool: str) -> str:
        """Return why a tool is always refused, or an empty text."""
        if _matches(tool, self.spec.denied_tools):
            return f"This agent may never use {tool}. Do without it."
        if tool.startswith("mcp__") and not self._is_label_tool(tool):
            server, name = self._mcp_tool(tool)
            if server is None:
                return f"{tool} belongs to no MCP server of this agent."
            if server.allowed_tools is not None and not _matches(name, server.allowed_tools):
                return f"This agent may not use {name} of the MCP server {server.name}."
        return ""

    def _is_label_tool(self, tool: str) -> bool:
        return self.spec.may_label and tool == OWN_TOOL

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


_ASK_ALONE = (
    "This call needs a person's approval, which can only be asked for when the call stands alone. "
    "Make exactly this call again, with no other tool call beside it."
)


class QuestionKeys:
    """Names the calls that a person is asked about by tool, arguments and number.

    An attempt that begins anew, as after a worker's death, makes calls with other ids: the same
    call gets the same key, and its question or answer is found again, also on another machine,
    where the session's directory has another path than `place`.
    """

    def __init__(self, answered: Iterable[str] = (), place: SessionPlace = NOWHERE) -> None:
        self._place = place
        self.answered = list(answered)
        """The keys whose answers the conversation has followed."""
        self._of_calls: dict[str, str] = {}

    def of(self, tool: str, arguments: Arguments, call_id: str) -> str:
        """Return the key of a call: the first that no other call of the conversation has."""
        if call_id in self._of_calls:
            return self._of_calls[call_id]
        taken = {*self.answered, *self._of_calls.values()}
        digest = call_digest(tool, self._place.without_paths(sanitize_json(dict(arguments))))
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
        if key not in self.answered:
            self.answered.append(key)


@dataclass(eq=False, repr=False)
class Permissions:
    """Decides about the tool calls of one attempt.

    A call that needs a person ends the attempt: Claude Code keeps it open (its `defer`), the
    question is in `pending`, and the attempt that follows the answer runs or denies that call.
    This works for a call that is the only one of its answer (`is_alone`). One among several is
    refused once, with the advice to make it alone. If the model ignores this, or the call comes
    from a helper agent, the attempt waits until the question is answered.
    """

    policy: Policy
    agent_name: str
    context: RunContext
    is_alone: Callable[[str], Awaitable[bool]]
    answers: Mapping[str, Answer]
    keys: QuestionKeys
    on_stop: Callable[[Exception], None]
    place: SessionPlace = NOWHERE
    asked_in: str | None = None
    """The session's directory where people were asked: their answers may have its path."""
    open_in: Mapping[str, str | None] = field(default_factory=dict)
    """For calls of an earlier attempt, by their ids, what `Policy.inside` has returned."""
    pending: Question | None = field(default=None, init=False)
    pending_in: str | None = field(default=None, init=False)
    """Where Claude Code was at the pending call."""
    _advised: set[str] = field(default_factory=set, init=False)
    _directories: dict[str, str | None] = field(default_factory=dict, init=False)
    """Claude Code's directory at calls that a person is asked about, by their ids."""

    async def before_call(
        self, call: HookInput, call_id: str | None, _context: HookContext
    ) -> HookJSONOutput:
        """Decide about a call before Claude Code does (its hook PreToolUse)."""
        assert call["hook_event_name"] == "PreToolUse"
        tool, arguments = call["tool_name"], call["tool_input"]
        number, cwd = call_id or call["tool_use_id"], call.get("cwd")
        if inner := self.open_in.get(number):  # Claude Code begins in the working directory itself
            cwd = self.policy.place_of(inner)
        # in a thread: it looks into directories
        decision = await FILES.run(self.policy.judge, tool, arguments, cwd)
        if decision.verdict is Verdict.ASK:
            self._directories[number] = cwd
            question, answer = self._asked(tool, arguments, number)
            if answer is None:
                self.pending_in = self.policy.inside(cwd)
                return await self._put(question, number, of_helper=bool(call.get("agent_id")))
            decision = self._follow(question, answer, tool, arguments, cwd)
        if inner and decision.verdict is Verdict.ALLOW:
            decision = await FILES.run(self._there, decision, arguments, inner)
        if decision.verdict is Verdict.DENY:
            await self._record_denial(tool, number, decision.reason)
        return _output(decision.verdict, decision.reason, decision.arguments)

    def _there(self, decision: Decision, arguments: Arguments, inner: str) -> Decision:
        """Return the decision about an open call, with its command in the directory it was in."""
        made = arguments if decision.arguments is None else decision.arguments
        if not isinstance(made.get("command"), str):
            return decision
        place = self.policy.place_of(inner)
        if self.policy.inside(place) != inner or not Path(place).is_dir():
            reason = f"The directory {inner}, in which the command was to run, is gone."
            return Decision(Verdict.DENY, reason)
        command = f"cd -- {quote(place)} || exit 1\n{made['command']}"
        return replace(decision, arguments={**made, "command": command})

    async def _put(self, question: Question, call_id: str, *, of_helper: bool) -> HookJSONOutput:
        """Return how a person is asked: `defer`, or `ask`, which leads to `can_use_tool`."""
        if of_helper:
            return _output("ask")
        if await self.is_alone(call_id):
            self.pending = question
            return _output("defer")
        same = dumps([question.tool, question.arguments])
        if same in self._advised:
            return _output("ask")
        self._advised.add(same)
        self.keys.free(call_id)
        return _output("deny", _ASK_ALONE)

    async def can_use_tool(
        self, tool: str, arguments: dict[str, Any], call: ToolPermissionContext
    ) -> PermissionResultAllow | PermissionResultDeny:
        """Decide about a call that Claude Code would ask its user about."""
        number = call.tool_use_id or ""
        directory = self._directories.get(number)
        if inner := self.open_in.get(number):
            directory = self.policy.place_of(inner)
        decision = await FILES.run(self.policy.judge, tool, arguments, directory)
        if decision.verdict is Verdict.ASK:
            question, answer = self._asked(tool, arguments, number)
            if answer is None:
                try:
                    answer = await self.context.ask(question)
                except CeleriacError as error:
                    self.on_stop(error)
                    return PermissionResultDeny(message=error.message, interrupt=True)
            decision = self._follow(question, answer, tool, arguments, directory)
        if inner and decision.verdict is Verdict.ALLOW:
            decision = await FILES.run(self._there, decision, arguments, inner)
        if decision.verdict is Verdict.DENY:
            await self._record_denial(tool, number, decision.reason)
            return PermissionResultDeny(message=decision.reason)
        return PermissionResultAllow(updated_input=decision.arguments)

    async def _record_denial(self, tool: str, call_id: str, reason: str) -> None:
        if tool == ASK_TOOL:  # a question that nobody answers
            return
        await self.context.emit(
            EventType.TOOL_DENIED,
            {"id": storable_text(call_id), **named(tool), "reason": storable_text(reason)},
        )

    def _asked(
        self, tool: str, arguments: Arguments, call_id: str
    ) -> tuple[Question, Answer | None]:
        """Return the question about a call, and the answer that an earlier attempt got."""
        asked = dict(_questions(arguments)) if tool == ASK_TOOL else {}
        title = " ".join(asked) or f"May the agent {self.agent_name} use {tool}?"
        approvals = self.policy.spec.approvals
        question = Question(
            key=self.keys.of(tool, arguments, call_id),
            kind=QuestionKind.FORM if asked else QuestionKind.TOOL,
            title=clip(storable_text(title), _LONGEST_TITLE),
            tool=storable_text(tool),
            arguments=sanitize_json(dict(arguments)),
            schema=_form(asked) if asked else None,
            expires_seconds=approvals.expires_seconds,
            on_expiry=approvals.on_expiry,
        )
        # older releases had the call's id as the key
        return question, self.answers.get(question.key) or self.answers.get(f"tool:{call_id}")

    def _follow(
        self, question: Question, answer: Answer, tool: str, arguments: Arguments, cwd: str | None
    ) -> Decision:
        """Follow an answer; calls that the rules forbid stay forbidden."""
        self.keys.follow(question.key)
        note = f" They say: {answer.note}" if answer.note else ""
        changed = answer.value if isinstance(answer.value, dict) else None
        if tool == ASK_TOOL:
            if not answer.approved or changed is None:
                reason = f"Nobody answers the question. Decide by yourself.{note}"
                return Decision(Verdict.DENY, reason)
            answers = {
                asked: ", ".join(map(str, value)) if isinstance(value, list) else str(value)
                for asked, value in changed.items()
            }
            changed = {**arguments, "answers": answers}
        elif not answer.approved:
            return Decision(Verdict.DENY, f"A person denied this call.{note}")
        else:
            changed = self.place.moved(changed, self.asked_in)
        decision = self.policy.check(tool, arguments if changed is None else changed, cwd)
        if decision.verdict is Verdict.DENY:
            return decision
        return replace(decision, arguments=decision.arguments or changed)


def _output(
    decision: str, reason: str = "", updated: dict[str, Any] | None = None
) -> HookJSONOutput:
    specific: dict[str, Any] = {"hookEventName": "PreToolUse", "permissionDecision": decision}
    if reason:
        specific["permissionDecisionReason"] = reason
    if updated is not None:
        specific["updatedInput"] = updated
    return {"hookSpecificOutput": specific}  # type: ignore[typeddict-item]
