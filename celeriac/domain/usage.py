"""Usage of model calls, their estimates, and rate limits."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Rate:
    """What one window, a minute unless told otherwise, may hold; None bounds nothing."""

    requests: int | None = None
    tokens: int | None = None
    """Input and output tokens together."""


@dataclass(frozen=True, slots=True)
class RateRequest:
    """What a call takes from one of the rates that apply to it."""

    name: str
    """`provider` or `provider/model`: calls with the same name share one rate."""
    rate: Rate
    tokens: int


@dataclass(frozen=True, slots=True)
class RateGrant:
    """What a call has taken, so that it can be corrected or given back."""

    demands: tuple[RateRequest, ...]
    slot: int
    """The piece of time in which it was taken, as the limiter counts them."""


@dataclass(frozen=True, slots=True)
class RateDenied:
    """A call must wait `seconds`: until there may be room, or a provider's ban is over."""

    seconds: float


def demands(
    rates: Mapping[str, Rate], *, provider: str, model: str, tokens: int
) -> tuple[RateRequest, ...]:
    """Return what a call takes: from its provider's rate and from its model's, where set."""
    names = (provider, f"{provider}/{model}")
    return tuple(_demand(name, rates[name], tokens) for name in names if name in rates)


def _demand(name: str, rate: Rate, tokens: int) -> RateRequest:
    # one that is larger than the whole rate takes all of it, and so gets its turn
    return RateRequest(name, rate, tokens if rate.tokens is None else min(tokens, rate.tokens))


MAX_COUNT = 2**31 - 1
MAX_COST = Decimal(10**9)

CASSETTE = "cassette"
"""Stands before the provider's name where no provider was asked."""


def dollars(amount: Decimal) -> str:
    """Return US dollars as a text: plain digits, at least two of them after the point."""
    whole, _, part = f"{amount.normalize():f}".partition(".")
    return f"{whole}.{part:0<2}"


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One request to a model, as it is charged.

    Tokens are counts (`cached_tokens` are part of `input_tokens`), latency is in milliseconds,
    cost in US dollars or None where no price is known. Raises ValueError for what can't be stored:
    negative numbers and absurdly large ones.
    """

    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    latency_ms: int = 0
    finish_reason: str | None = None
    cost: Decimal | None = None
    booked: "CallEstimate | None" = None
    """What budgets are charged where the provider did not say what was used: an estimate."""
    made: float | None = None
    """When, in `time.monotonic()` seconds of this process; None means when it is stored."""
    day: date | None = None
    """The day (UTC) of the budget windows that it was booked in; None means that of `made`."""

    def __post_init__(self) -> None:
        """Refuse here, in the agent that told it, what the database would refuse later."""
        for name in ("input_tokens", "output_tokens", "cached_tokens", "latency_ms"):
            if not 0 <= getattr(self, name) <= MAX_COUNT:
                raise ValueError(f"{name} must be between 0 and {MAX_COUNT}")
        if self.cost is not None and not 0 <= self.cost < MAX_COST:
            raise ValueError(f"cost must be between 0 and {MAX_COST}")

    def played(self) -> "ModelCall":
        """Return the call as one that a cassette answered: it cost nothing, and says so."""
        return replace(self, provider=f"{CASSETTE}/{self.provider}", cost=Decimal(0))


@dataclass(frozen=True, slots=True)
class CallEstimate:
    """A model call that is about to be made: the most that it can use.

    `cost` is in US dollars, None where no price is known. Limits and budgets are asked with it.
    """

    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    cost: Decimal | None = None
    input_cost: Decimal | None = None
    """The part of `cost` that the input has."""
    least_tokens: int = 0
    """The fewest tokens that it can use: its input, estimated low, and the shortest answer."""
    least_cost: Decimal | None = None
    least_output: int | None = None
    """The shortest answer that is worth the call; None means `MIN_ANSWER_TOKENS`."""
    output_limit: int | None = None
    """The limit of its answer that the request names, where it is not `output_tokens`."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A limit of an answer that a budget sets: what is left of it allows no longer one."""

    output_tokens: int
    budget: str
    """The budget, in words."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """Leave for one model call: what is reserved for it until it is charged."""

    id: UUID
    reserved: bool = True
    """Whether budgets hold a reservation under this id."""
    taken: RateGrant | None = None
    """What it took from the provider's limits."""
    day: date | None = None
    """The day (UTC) of the budget windows that it is reserved in."""
    clip: Clip | None = None
    """The limit that the answer must be given, where it is below the call's own."""
    free: bool = False
    """Whether money is bounded and the call's price is 0: nothing holds it."""


@dataclass(frozen=True, slots=True)
class MadeCall:
    """A model call as it is stored."""

    id: UUID
    attempt: int
    at: datetime
    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    latency_ms: int
    finish_reason: str | None
    cost: Decimal | None


class UsageBy(StrEnum):
    """What usage is added up by."""

    TASK = "task"
    USER = "user"
    DAY = "day"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class UsageTotal:
    """What the model calls of a task, a user, a day or a model used together.

    `key` is an id, `2026-11-22`, or `provider/model`; `unpriced_calls` are those whose price was
    not known, which the cost leaves out.
    """

    key: str
    name: str | None
    calls: int
    unpriced_calls: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageFilter:
    """Which usage to add up; days are UTC and both included, None means: all."""

    since: date
    until: date
    owner_id: UUID | None = None
    task_id: UUID | None = None
