"""What is said about spent budgets: errors, questions to people, and what their answers mean."""

from collections.abc import Sequence
from decimal import Decimal

from pydantic import ValidationError

from celeriac.domain.agent import ApprovalPolicy, ClaudeAgent, LlmAgent
from celeriac.domain.approval import Answer, Question, QuestionKind
from celeriac.domain.budget import Extension, Standing
from celeriac.domain.errors import AgentMisconfiguredError, BudgetSpentError
from celeriac.domain.outcome import Parked, WaitingFor
from celeriac.domain.usage import PlannedCall, dollars
from celeriac.kit.jsontypes import JsonObject, JsonValue
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


def breach(standing: Standing, call: PlannedCall | None = None) -> str:
    """Return in a phrase what is wrong: the budget is spent, or has no room for `call`."""
    if call is None or standing.spent_out:
        return standing.describe()
    needs = []
    if standing.max_cost is not None and call.least_cost is not None:
        left = standing.max_cost - standing.spent_cost
        needs.append(f"at least ${dollars(call.least_cost)}, ${dollars(left)} are left")
    if standing.max_tokens is not None:
        room = standing.max_tokens - standing.spent_tokens
        needs.append(f"at least {call.least_tokens:,} tokens, {room:,} are left")
    return (
        f"the {standing.name} has no room for the next model call: it needs "
        f"{' and '.join(needs)} (spent: {standing.use})"
    )


def spent_error(
    standing: Standing, note: str = "", *, call: PlannedCall | None = None
) -> BudgetSpentError:
    """Return the error that ends an execution whose budget is spent, or can't hold `call`."""
    said = sentence(breach(standing, call))
    needs: dict[str, JsonValue] = {}
    if call is not None:
        needs["needed_tokens"] = call.least_tokens
        needs["needed_cost"] = None if call.least_cost is None else dollars(call.least_cost)
    return BudgetSpentError(f"{said} {note}".rstrip(), **_numbers(standing), **needs)


def question_about(standing: Standing, job: Job, call: PlannedCall | None = None) -> Question:
    """Ask whether more may be spent; the key is another one each time the limits were raised."""
    agent = job.agent
    policy = agent.approvals if isinstance(agent, LlmAgent | ClaudeAgent) else ApprovalPolicy()
    return Question(
        key=f"budget:{standing.budget_id}:{standing.window}:{standing.raised}",
        kind=QuestionKind.BUDGET,
        title=f"{sentence(breach(standing, call))} May more be spent?",
        arguments=_numbers(standing),
        schema=_ANSWER,
        expires_seconds=policy.expires_seconds,
    )


def extension_of(standing: Standing, answer: Answer) -> tuple[Decimal, int]:
    """Return the dollars and tokens that an approving answer allows in addition.

    Without a value it is as much again as the limits of the window are. Raises BudgetSpentError for
    a value that can't be read: nothing is allowed then.
    """
    try:
        wished = Extension.model_validate({} if answer.value is None else answer.value)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        raise spent_error(standing, f"The answer can't be read: {fault['msg']}.") from error
    if wished.cost is None and wished.tokens is None:
        return standing.max_cost or Decimal(0), standing.max_tokens or 0
    return wished.cost or Decimal(0), wished.tokens or 0


def check_price(call: PlannedCall, standings: Sequence[Standing]) -> None:
    """Raise AgentMisconfiguredError where money is bounded and the call's price is not known."""
    if call.cost is None and any(each.max_cost is not None for each in standings):
        name = f"{call.provider}/{call.model}"
        raise AgentMisconfiguredError(
            f"The price of {name} is not known, so that no budget of money can hold it. Add it to "
            "the file that CELERIAC_PRICES_FILE names, or bound tokens (max_tokens) only.",
            field="model",
        )


def unheld(provider: str, model: str, *, known: bool) -> str:
    """Say that no budget of money holds a model: its price is 0, or not `known`."""
    name = f"{provider}/{model}"
    if known:
        return (
            f"The price of {name} is 0, so that no budget of money holds its calls. Bound tokens "
            "(max_tokens) too."
        )
    return (
        f"The price of {name} is not known, so that its calls count nothing in budgets of money. "
        "Add it to the file that CELERIAC_PRICES_FILE names, or bound tokens (max_tokens) too."
    )


def parked_behind(standings: Sequence[Standing], seconds: float) -> Parked:
    """Park for a moment: other calls under way hold what is left."""
    names = ", ".join(sorted({each.scope.value for each in standings}))
    note = f"Calls under way hold what is left of a budget ({names}); it is asked again soon."
    return Parked(WaitingFor.BUDGET, note, seconds=seconds)


def sentence(phrase: str) -> str:
    """Return a phrase as a sentence."""
    return f"{phrase[:1].upper()}{phrase[1:]}."


def _numbers(standing: Standing) -> dict[str, JsonValue]:
    return {
        "budget_id": str(standing.budget_id),
        "scope": standing.scope.value,
        "window": standing.window,
        "max_cost": None if standing.max_cost is None else dollars(standing.max_cost),
        "max_tokens": standing.max_tokens,
        "spent_cost": dollars(standing.spent_cost),
        "spent_tokens": standing.spent_tokens,
    }
