"""What budgets have room for: whether a call can fit, and how long its answer may be."""

from collections.abc import Iterable, Iterator
from decimal import Decimal

from celeriac.domain.budget import Standing
from celeriac.domain.usage import Clip, PlannedCall

MIN_ANSWER_TOKENS = 16
"""No answer is clipped to fewer tokens: the call is refused instead."""


def can_hold(standing: Standing, call: PlannedCall) -> bool:
    """Whether the least that `call` needs fits in what is not spent."""
    tokens = standing.spent_tokens + call.least_tokens
    if standing.max_tokens is not None and tokens > standing.max_tokens:
        return False
    if standing.max_cost is None or call.least_cost is None:
        return True
    return standing.spent_cost + call.least_cost <= standing.max_cost


def clip_of(standings: Iterable[Standing], call: PlannedCall) -> Clip | None:
    """Return the limit of an answer that what is left asks for; None where the call's own will do.

    `standings` are without the call's own reservation. The input counts as it is reserved for.
    """
    limit = call.output_tokens if call.output_limit is None else call.output_limit
    rooms = [(room, each) for each in standings for room in _rooms(each, call)]
    if not rooms:
        return None
    room, standing = min(rooms, key=lambda each: each[0])
    shortest = MIN_ANSWER_TOKENS if call.least_output is None else call.least_output
    room = max(room, min(shortest, limit))
    return Clip(room, standing.name) if room < limit else None


def _rooms(standing: Standing, call: PlannedCall) -> Iterator[int]:
    """Yield how many tokens of an answer each limit of a budget has room for."""
    if standing.max_tokens is not None:
        used = standing.spent_tokens + standing.reserved_tokens
        yield standing.max_tokens - used - call.input_tokens
    if standing.max_cost is not None and call.cost is not None and call.input_cost is not None:
        answer = call.cost - call.input_cost
        if answer > 0 and call.output_tokens:
            used_cost = standing.spent_cost + standing.reserved_cost
            left = max(standing.max_cost - used_cost - call.input_cost, Decimal(0))
            yield int(left * call.output_tokens / answer)
