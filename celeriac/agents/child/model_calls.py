"""Model calls that a child process makes: leave is asked for each, and each is charged."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

from celeriac.agents.child.protocol import AdmitMessage, UsageMessage
from celeriac.domain.usage import ModelCall, PlannedCall, Ticket
from celeriac.kit.jsontypes import JsonObject
from celeriac.services.ports import RunContext

Price = Callable[[str, str, int, int, int], Decimal | None]
"""What a call costs in US dollars: provider, model, tokens in, out, and cached of those in."""

UNFINISHED = "unfinished"
"""The finish reason of a call that was under way when its process ended."""


def unpriced(*_: object) -> None:
    """Know no price."""


class ModelCalls:
    """Keeps the books of one child."""

    def __init__(self, context: RunContext, price: Price) -> None:
        """Ask and charge `context`; `price` says what the child leaves open."""
        self._context = context
        self._price = price
        self._under_way: dict[str, tuple[PlannedCall, Ticket | None]] = {}

    async def admit(self, message: AdmitMessage) -> JsonObject:
        """Wait for leave and return the reply; raises what `RunContext.admit` does."""
        planned = PlannedCall(
            provider=message.provider,
            model=message.model,
            input_tokens=message.input_tokens,
            output_tokens=message.output_tokens,
            cost=self._price(
                message.provider, message.model, message.input_tokens, message.output_tokens, 0
            ),
        )
        self._under_way[message.id] = planned, await self._context.admit(planned)
        return {"type": "admitted", "id": message.id}

    async def charge(self, message: UsageMessage) -> None:
        """Record a call that has ended; where it was admitted its reservation is settled."""
        call = message.model_call()
        if call.cost is None and call.input_tokens + call.output_tokens > 0:
            cost = self._price(
                call.provider,
                call.model,
                call.input_tokens,
                call.output_tokens,
                call.cached_tokens,
            )
            call = replace(call, cost=cost)
        _, ticket = self._under_way.pop(message.admission or "", (None, None))
        await self._context.charge(call, ticket)

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
            )
            await self._context.charge(call, ticket)
