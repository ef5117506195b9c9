"""Every tool call is judged here: by the agent's rules, then by a person where they say so."""

from collections.abc import Callable, Mapping
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

from celeriac.agents.claude.calls import Calls
from celeriac.agents.claude.policy import Policy, Verdict
from celeriac.agents.claude.questions import changed_arguments, question_of, refusal_of
from celeriac.domain.agent import ClaudeAgent
from celeriac.domain.approval import Answer, Question
from celeriac.domain.errors import CeleriacError
from celeriac.kit.jsontypes import dumps
from celeriac.kit.threads import FILES
from celeriac.services.ports import RunContext

_HOOK_SECONDS = 3_600.0
"""How long a judgement may take: the model has to finish its answer first."""

_ASK_ALONE = (
    "This call needs a person's approval, which can only be asked for when the call stands alone. "
    "Make exactly this call again, with no other tool call beside it."
)


class Permissions:
    """Judges the tool calls of one attempt.

    A call that needs a person ends the attempt: Claude Code keeps it open (its `defer`), the
    question is in `pending`, and the attempt that follows the answer runs or refuses that very
    call. That works for a call that stands alone in its answer; one among several is refused once
    with the advice to make it alone. Where that isn't followed, and for the calls of helper
    agents, the question is asked and waited for in place.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        spec: ClaudeAgent,
        agent_name: str,
        context: RunContext,
        calls: Calls,
        answers: Mapping[str, Answer],
        on_stop: Callable[[Exception], None],
    ) -> None:
        self.pending: Question | None = None
        self._policy = policy
        self._spec = spec
        self._agent_name = agent_name
        self._context = context
        self._calls = calls
        self._answers = answers
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
        answer = self._answers.get(question.key)
        if answer is not None:
            result = self._follow(answer, tool, arguments, call.get("cwd"))
            if isinstance(result, PermissionResultDeny):
                return _output("deny", result.message)
            return _output("allow", updated=result.updated_input)
        return await self._put(question, number, of_helper=bool(call.get("agent_id")))

    async def _put(self, question: Question, call_id: str, *, of_helper: bool) -> HookJSONOutput:
        """Say how a question is put to a person; `ask` leads to `can_use_tool`, which waits."""
        if of_helper:
            return _output("ask")
        if await self._calls.alone(call_id):
            self.pending = question
            return _output("defer")
        same = dumps([question.tool, question.arguments])
        if same in self._advised:
            return _output("ask")
        self._advised.add(same)
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
        answer = self._answers.get(question.key)
        if answer is None:
            try:
                answer = await self._context.ask(question)
            except CeleriacError as error:
                self._on_stop(error)
                return PermissionResultDeny(message=error.message, interrupt=True)
        return self._follow(answer, tool, arguments, directory)

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
            key=f"tool:{call_id}",
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
