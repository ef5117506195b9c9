"""Model calls that a child process makes by itself, past the gateway, and reports."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal

from celeriac.agents.base import emit_clipped
from celeriac.agents.child.protocol import AdmitMessage, ReleaseMessage, UsageMessage
from celeriac.agents.gateway.calls import CUT_OFF, UNFINISHED, RequestSize, estimate_of
from celeriac.agents.models import Tokens
from celeriac.domain.budgets import MIN_ANSWER_TOKENS
from celeriac.domain.errors import ChildProtocolError
from celeriac.domain.usage import CallEstimate, ModelCall, Reservation
from celeriac.kit.json_types import JsonObject
from celeriac.services.ports import RunContext

Price = Callable[[str, str, Tokens], Decimal | None]
"""What a call of a provider's model costs in US dollars; None if no price is known."""


def unpriced(*_: object) -> None:
    """Know no price."""


@dataclass(eq=False, repr=False)
class ReportedCalls:
    """The calls that one child reports; `price` computes costs that are not reported."""

    context: RunContext
    price: Price
    _open: dict[str, tuple[CallEstimate, Reservation | None]] = field(
        default_factory=dict, init=False
    )

    async def admit(self, message: AdmitMessage) -> JsonObject:
        """Admit a call and return the reply.

        Raises ChildProtocolError for an id that is in use, and the errors of `RunContext.admit`.
        """
        if message.id in self._open:
            raise ChildProtocolError(
                f"The child process requested a second model call {message.id!r} before it "
                "reported the usage of the first. Give each call its own id."
            )
        estimate = self._estimate(message)
        reservation = await self.context.admit(estimate)
        self._open[message.id] = estimate, reservation
        clip = None if reservation is None else reservation.clip
        limit = {} if clip is None else {"output_tokens": clip.output_tokens}
        return {"type": "admitted", "id": message.id, **limit}

    def _estimate(self, message: AdmitMessage) -> CallEstimate:
        def cost(tokens: Tokens) -> Decimal | None:
            return self.price(message.provider, message.model, tokens)

        size = RequestSize(
            message.model,
            output=message.output_tokens,
            least_input=message.least_input_tokens or 0,
            least_output=MIN_ANSWER_TOKENS,
        )
        estimate = estimate_of(message.provider, size, message.input_tokens, cost)
        if message.least_input_tokens is None:
            return replace(estimate, least_tokens=0, least_cost=None)
        return estimate

    async def release(self, message: ReleaseMessage) -> None:
        """Release the reservation of a call that was not made."""
        _, reservation = self._open.pop(message.admission, (None, None))
        if reservation is not None:
            await self.context.release(reservation)

    async def charge(self, message: UsageMessage) -> None:
        """Charge a call that has ended, and settle its reservation if it was admitted."""
        call = message.model_call()
        call = replace(call, cached_tokens=min(call.cached_tokens, call.input_tokens))
        admission = message.admission or ""
        estimate, reservation = self._open.get(admission, (None, None))
        used = Tokens(call.input_tokens, call.output_tokens, call.cached_tokens)
        if used.input + used.output == 0:
            call = replace(call, booked=estimate)  # its usage is unknown
        elif call.cost is None:
            call = replace(call, cost=self.price(call.provider, call.model, used))
        # before the charge: a charge that is cancelled is stored all the same
        self._open.pop(admission, None)
        await self.context.charge(call, reservation)
        clip = None if reservation is None else reservation.clip
        if clip is not None and call.finish_reason in CUT_OFF:
            await emit_clipped(self.context, clip)

    async def close(self) -> None:
        """Charge the estimates of calls that were open when the child ended."""
        while self._open:
            _, (estimate, reservation) = self._open.popitem()
            call = ModelCall(
                provider=estimate.provider,
                model=estimate.model,
                input_tokens=0,
                output_tokens=0,
                finish_reason=UNFINISHED,
                booked=estimate,
            )
            await self.context.charge(call, reservation)
