"""From the ways in which Claude Code ends to ours: what is final, what may pass, what to check."""

from claude_agent_sdk import ClaudeSDKError, ResultMessage

from celeriac.agents.claude.proxy import CUT_OFF, SLOW_DOWN, CallFailure
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
    ProviderRateLimitedError,
    ProviderRefusedError,
    RetryableError,
)
from celeriac.kit.text import clip

_CONTEXT = "model_context_window_exceeded"
_ENDINGS = frozenset({"end_turn", "stop_sequence", "tool_use", CUT_OFF})
_SHOWN = 500
_SERVER_ERRORS = 500
_PASSING = frozenset({408, 409, 425})
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
    """Return the error that a result tells of, or None for a good one.

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
    return (
        RetryableError(f"Claude Code failed: {_words(result)}")
        if call is None
        else (failure_of_call(call))
    )


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


def failure_of_call(call: CallFailure) -> ExecutionError:
    """Return the error for a call that the provider refused, or that broke off."""
    said = clip(call.message, _SHOWN)
    status = call.status
    if status is None:
        return ProviderError(f"Anthropic's API failed: {said}.")
    if status == SLOW_DOWN:
        return ProviderRateLimitedError(
            f"Anthropic's API asks to slow down: HTTP 429, {said}", retry_after=call.retry_after
        )
    if status < _SERVER_ERRORS and status not in _PASSING:
        advice = _ADVICE.get(status, "Check the agent and the provider.")
        return ProviderRefusedError(
            f"Anthropic's API refuses the request: HTTP {status}, {said}. {advice}", status=status
        )
    return ProviderError(
        f"Anthropic's API failed: HTTP {status}, {said}",
        retry_after=call.retry_after,
        status=status,
    )


def failure_of_sdk(
    error: ClaudeSDKError, call: CallFailure | None, last_words: list[str]
) -> ExecutionError:
    """Return the error for a Claude Code that ended, or spoke, in an unexpected way."""
    if call is not None:
        return failure_of_call(call)
    words = clip(" / ".join(last_words[-3:]), _SHOWN)
    return ChildCrashedError(
        f"Claude Code ended without a result: {clip(str(error), _SHOWN)}"
        + (f"; its last words: {words}" if words else ""),
        stderr="\n".join(last_words),
    )


def _words(result: ResultMessage) -> str:
    said = "; ".join(result.errors or ()) or (result.result or "").strip()
    return clip(said or result.terminal_reason or result.subtype, _SHOWN)
