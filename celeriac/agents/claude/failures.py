"""Maps the ways in which Claude Code ends to our errors."""

from claude_agent_sdk import ClaudeSDKError, ResultMessage

from celeriac.agents.gateway.errors import CallFailure, FailureSource, error_of
from celeriac.agents.models import ANTHROPIC, ModelRef, Provider
from celeriac.agents.output import ObjectSchema
from celeriac.domain.agents import ClaudeAgent
from celeriac.domain.errors import (
    BudgetSpentError,
    ChildCrashedError,
    ContentFilteredError,
    ExecutionError,
    ModelCallLimitError,
    OutputInvalidError,
    OutputTruncatedError,
    ProviderError,
    ProviderRefusedError,
    RetryableError,
)
from celeriac.kit.json_types import JsonValue
from celeriac.kit.text import clip

CUT_OFF = "max_tokens"
"""The stop reason of an answer that its limit has cut off."""

_CONTEXT = "model_context_window_exceeded"
_ENDINGS = frozenset({"end_turn", "stop_sequence", "tool_use", CUT_OFF})
_SHOWN = 500
_SHOWN_ANSWER = 2_000
_ADVICE = {
    400: "Check the agent's settings, and whether the prompt is too long for the model.",
    401: "Check ANTHROPIC_API_KEY of the workers.",
    403: "Check what ANTHROPIC_API_KEY of the workers may use.",
    404: "Check the agent's model and ANTHROPIC_BASE_URL of the workers.",
    413: "Shorten the prompt, its variables or the instructions.",
}


def failure_of(
    result: ResultMessage, call: CallFailure | None, spec: ClaudeAgent, *, ended: str | None
) -> ExecutionError | None:
    """Return the error in a result, or None for a good one.

    An API error comes with `subtype="success"`: `is_error` decides. `call` is how the newest call
    of the API failed, if it did, and `ended` the stop reason of the newest answer.
    """
    own = _own_limit(result, spec)
    if own is not None:
        return own
    if result.stop_reason == "refusal":
        return ContentFilteredError("The model refused to answer. Change the prompt or the input.")
    if not result.is_error:
        return _half(result)
    limit = _limit_of_tokens(result, ended)
    if limit is not None:
        return limit
    if call is None and result.api_error_status is not None:
        call = CallFailure(result.api_error_status, _words(result))
    if call is None:
        return RetryableError(f"Claude Code failed: {_words(result)}")
    return failure_of_call(call, spec.model or "")


def _limit_of_tokens(result: ResultMessage, ended: str | None) -> ExecutionError | None:
    """Return the error for a limit of the model that Claude Code could not work around."""
    if ended == CUT_OFF:
        return OutputTruncatedError(
            "The model reached its token limit before its answer was complete. Ask for less at "
            "once, or have the agent write what is long into files.",
            answer=_words(result),
        )
    if ended == _CONTEXT:
        return ProviderRefusedError(
            "The conversation no longer fits into the model's context window. Make the task "
            "smaller, have tools answer with less, or use another model."
        )
    return None


def _half(result: ResultMessage) -> ExecutionError | None:
    """Return the error for a result that is none, although Claude Code takes it for one."""
    if result.stop_reason is not None and result.stop_reason not in _ENDINGS:
        return ProviderError(
            f"Anthropic's API ended its answer with the stop reason {result.stop_reason!r}, which "
            "is no end."
        )
    if not (result.result or "").strip() and result.structured_output is None:
        return OutputInvalidError("The model answered with nothing.")
    return None


def _own_limit(result: ResultMessage, spec: ClaudeAgent) -> ExecutionError | None:
    """Return the error for a limit at which Claude Code stops by itself."""
    match result.subtype:
        case "error_max_turns":
            return ModelCallLimitError(
                f"The agent would need more than max_turns={spec.max_turns} turns. Raise the "
                "limit, or make the task smaller.",
                max_turns=spec.max_turns,
            )
        case "error_max_budget_usd":
            return BudgetSpentError("Claude Code stopped at its own budget.")
        case "error_max_structured_output_retries":
            return OutputInvalidError(
                f"The agent gave no answer that fits the output schema: {_words(result)}"
            )
        case _:
            return None


def failure_of_call(call: CallFailure, model: str) -> ExecutionError:
    """Return the error for a call that the provider refused, or that broke off."""
    choice = ModelRef(Provider(name=ANTHROPIC, base_url=""), model)
    return error_of(call, FailureSource(choice, "Anthropic's API", _ADVICE))


def failure_of_sdk(
    error: ClaudeSDKError, call: CallFailure | None, spec: ClaudeAgent, last_words: list[str]
) -> ExecutionError:
    """Return the error for a Claude Code that ended, or answered, in an unexpected way."""
    if call is not None:
        return failure_of_call(call, spec.model or "")
    words = clip(" / ".join(last_words[-3:]), _SHOWN)
    return ChildCrashedError(
        f"Claude Code ended without a result: {clip(str(error), _SHOWN)}"
        + (f"; its last words: {words}" if words else ""),
        stderr="\n".join(last_words),
    )


def _words(result: ResultMessage) -> str:
    said = "; ".join(result.errors or ()) or (result.result or "").strip()
    return clip(said or result.terminal_reason or result.subtype, _SHOWN)


async def structured_answer(schema: ObjectSchema, result: ResultMessage) -> JsonValue:
    """Return the answer in a result; raises OutputInvalidError if it doesn't fit `schema`.

    Claude Code gives the schema to the model as a tool whose arguments are the answer.
    """
    answer = result.structured_output
    if not isinstance(answer, dict) or not schema.is_complete(answer):
        raise OutputInvalidError(
            "The agent gave its answer as a text, not as the task's output schema asks.",
            answer=clip(result.result or "", _SHOWN_ANSWER),
        )
    if faults := await schema.faults(answer):
        raise OutputInvalidError(
            f"The answer doesn't fit the task's output schema: {'; '.join(faults)}.", faults=faults
        )
    return schema.value(answer)
