"""What is said about budgets that are spent: errors, questions, warnings."""

from collections.abc import Sequence
from decimal import Decimal

from pydantic import ValidationError

from celeriac.domain.agents import ApprovalPolicy, ClaudeAgent, LlmAgent
from celeriac.domain.approvals import Answer, Question, QuestionKind
from celeriac.domain.budgets import BudgetState, Extension
from celeriac.domain.errors import (
    AgentMisconfiguredError,
    BudgetSpentError,
)
from celeriac.domain.executions.model import Parked
from celeriac.domain.executions.states import WaitingFor
from celeriac.domain.usage import CallEstimate, dollars
from celeriac.kit.json_types import JsonObject, JsonValue
from celeriac.kit.validation import first_fault
from celeriac.kit.words import counted
from celeriac.services.ports import Job

_ANSWER: JsonObject = {
    "type": ["object", "null"],
    "properties": {
        "cost": {
            "type": ["number", "string", "null"],
            "minimum": 0,
            "description": "US dollars to allow in addition.",
        },
        "tokens": {
            "type": ["integer", "null"],
            "minimum": 0,
            "description": "Tokens to allow in addition.",
        },
    },
    "additionalProperties": False,
}


def breach(state: BudgetState, call: CallEstimate | None = None) -> str:
    """Return as a phrase why a call is denied: the budget is spent, or has no room for it."""
    if call is None or state.spent_out:
        return state.describe()
    if state.private:
        return f"the {state.name} has no room for the next model call"
    needs = []
    if state.max_cost is not None and call.least_cost is not None:
        left = state.max_cost - state.spent_cost
        needs.append(f"at least ${dollars(call.least_cost)}, ${dollars(left)} are left")
    if state.max_tokens is not None:
        room = state.max_tokens - state.spent_tokens
        left_tokens = f"{room:,} is" if room == 1 else f"{room:,} are"
        needs.append(f"at least {counted(call.least_tokens, 'token')}, {left_tokens} left")
    return (
        f"the {state.name} has no room for the next model call: it needs "
        f"{' and '.join(needs)} (spent: {state.use})"
    )


def spent_error(
    state: BudgetState, note: str = "", *, call: CallEstimate | None = None
) -> BudgetSpentError:
    """Return the error that ends an execution whose budget is spent or has no room for `call`."""
    said = sentence(breach(state, call))
    needs: dict[str, JsonValue] = {}
    if call is not None and not state.private:
        needs["needed_tokens"] = call.least_tokens
        needs["needed_cost"] = None if call.least_cost is None else dollars(call.least_cost)
    return BudgetSpentError(f"{said} {note}".rstrip(), **_numbers(state), **needs)


def question_about(state: BudgetState, job: Job, call: CallEstimate | None = None) -> Question:
    """Return the question for more budget; its key changes each time the limits are raised."""
    agent = job.agent
    policy = agent.approvals if isinstance(agent, LlmAgent | ClaudeAgent) else ApprovalPolicy()
    return Question(
        key=f"budget:{state.budget_id}:{state.window}:{state.raised}",
        kind=QuestionKind.BUDGET,
        title=f"{sentence(breach(state, call))} May more be spent?",
        arguments=_numbers(state),
        schema=_ANSWER,
        expires_seconds=policy.expires_seconds,
    )


def extension_of(state: BudgetState, answer: Answer) -> tuple[Decimal, int]:
    """Return the dollars and tokens that an approving answer allows in addition.

    Without a value that is the limits of the window once more. Raises BudgetSpentError for an
    invalid value.
    """
    try:
        extension = Extension.model_validate({} if answer.value is None else answer.value)
    except ValidationError as error:
        _, fault = first_fault(error)
        raise spent_error(state, f"The answer can't be read: {fault}.") from error
    if extension.cost is None and extension.tokens is None:
        return state.max_cost or Decimal(0), state.max_tokens or 0
    return extension.cost or Decimal(0), extension.tokens or 0


def check_price(call: CallEstimate, states: Sequence[BudgetState]) -> None:
    """Raise AgentMisconfiguredError if the cost is limited and the call's price is unknown."""
    if call.cost is None and any(each.max_cost is not None for each in states):
        name = f"{call.provider}/{call.model}"
        raise AgentMisconfiguredError(
            f"The price of {name} is unknown, so no cost limit can apply to it. Add it to the file "
            "that CELERIAC_PRICES_FILE names, or limit only tokens (max_tokens).",
            field="model",
        )


def unheld(provider: str, model: str, *, known: bool) -> str:
    """Return the warning that no cost limit applies to a model without a (`known`) price."""
    name = f"{provider}/{model}"
    if known:
        return (
            f"The price of {name} is 0, so no cost limit applies to its calls. Limit tokens "
            "(max_tokens) too."
        )
    return (
        f"The price of {name} is unknown, so its calls don't count against cost limits. Add it to "
        "the file that CELERIAC_PRICES_FILE names, or limit tokens (max_tokens) too."
    )


def parked_behind(states: Sequence[BudgetState], seconds: float) -> Parked:
    """Return a short parking: other calls have reserved what is left."""
    names = ", ".join(sorted({each.scope.value for each in states}))
    note = (
        f"Other calls have reserved what is left of a budget ({names}); it is checked again soon."
    )
    return Parked(WaitingFor.BUDGET, note, seconds=seconds)


def sentence(phrase: str) -> str:
    """Return a phrase as a sentence."""
    return f"{phrase[:1].upper()}{phrase[1:]}."


def _numbers(state: BudgetState) -> dict[str, JsonValue]:
    budget: dict[str, JsonValue] = {
        "budget_id": str(state.budget_id),
        "scope": state.scope.value,
        "window": state.window,
    }
    if state.private:
        return budget
    return budget | {
        "max_cost": None if state.max_cost is None else dollars(state.max_cost),
        "max_tokens": state.max_tokens,
        "spent_cost": dollars(state.spent_cost),
        "spent_tokens": state.spent_tokens,
    }
