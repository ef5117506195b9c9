"""Model calls that a child process makes: leave is asked for each, and each is charged."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

from celeriac.agents.base import emit_clipped
from celeriac.agents.child.protocol import AdmitMessage, ReleaseMessage, UsageMessage
from celeriac.agents.models import Tokens
from celeriac.domain.budgets import MIN_ANSWER_TOKENS
from celeriac.domain.errors import ChildProtocolError
from celeriac.domain.usage import CallEstimate, ModelCall, Reservation
from celeriac.kit.json_types import JsonObject
from celeriac.services.ports import RunContext

Price = Callable[[str, str, Tokens], Decimal | None]
"""What a call of a provider's model costs in US dollars; None where no price is known."""

UNFINISHED = "unfinished"
"""The finish reason of a call that was under way when its process ended."""


_CUT_OFF = frozenset({"length", "max_tokens"})
"""The finish reasons of answers that their limit has cut off."""


def unpriced(*_: object) -> None:
    """Know no price."""


class ModelCalls:
    """Keeps the books of one child."""

    def __init__(self, context: RunContext, price: Price) -> None:
        """Ask and charge `context`; `price` says what the child leaves open."""
        self._context = context
        self._price = price
        self._under_way: dict[str, tuple[CallEstimate, Reservation | None]] = {}

    async def admit(self, message: AdmitMessage) -> JsonObject:
        """Wait for leave and return the reply.

        Raises ChildProtocolError for an id that is in use, and what `RunContext.admit` does.
        """
        if message.id in self._under_way:
            raise ChildProtocolError(
                f"The child process asked leave for a second model call {message.id!r} before it "
                "told what the first has used. Give each an id of its own."
            )
        planned = self._planned(message)
        ticket = await self._context.admit(planned)
        self._under_way[message.id] = planned, ticket
        clip = None if ticket is None else ticket.clip
        limit = {} if clip is None else {"output_tokens": clip.output_tokens}
        return {"type": "admitted", "id": message.id, **limit}

    def _planned(self, message: AdmitMessage) -> CallEstimate:
        def price(tokens: Tokens) -> Decimal | None:
            return self._price(message.provider, message.model, tokens)

        most = Tokens(input=message.input_tokens, output=message.output_tokens)
        planned = CallEstimate(
            provider=message.provider,
            model=message.model,
            input_tokens=most.input,
            output_tokens=most.output,
            cost=price(most),
            input_cost=price(Tokens(most.input, 0)),
        )
        if message.least_input_tokens is None:
            return planned
        least = message.least_input_tokens
        shortest = min(MIN_ANSWER_TOKENS, most.output)
        return replace(
            planned,
            least_tokens=least + shortest,
            least_cost=price(Tokens(least, shortest, cached=least)),
        )

    async def release(self, message: ReleaseMessage) -> None:
        """Give back the leave for a call that came to nothing."""
        _, ticket = self._under_way.pop(message.admission, (None, None))
        if ticket is not None:
            await self._context.release(ticket)

    async def charge(self, message: UsageMessage) -> None:
        """Record a call that has ended; where it was admitted its reservation is settled."""
        call = message.model_call()
        call = replace(call, cached_tokens=min(call.cached_tokens, call.input_tokens))
        admission = message.admission or ""
        planned, ticket = self._under_way.get(admission, (None, None))
        used = Tokens(call.input_tokens, call.output_tokens, call.cached_tokens)
        if used.input + used.output == 0:
            call = replace(call, booked=planned)  # the provider didn't say
        elif call.cost is None:
            call = replace(call, cost=self._price(call.provider, call.model, used))
        # not after the charge: one that is cancelled is recorded and booked all the same
        self._under_way.pop(admission, None)
        await self._context.charge(call, ticket)
        clip = None if ticket is None else ticket.clip
        if clip is not None and call.finish_reason in _CUT_OFF:
            await emit_clipped(self._context, clip)

    async def close(self) -> None:
        """Settle the calls that were under way when the child ended: what they used is unknown."""
        while self._under_way:
            _, (planned, ticket) = self._under_way.popitem()
            call = ModelCall(
                provider=planned.provider,
                model=planned.model,
                input_tokens=0,
                output_tokens=0,
                finish_reason=UNFINISHED,
                booked=planned,
            )
            await self._context.charge(call, ticket)
