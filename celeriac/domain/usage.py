"""Usage of model calls, their estimates, and rate limits."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Rate:
    """The limit of one window, a minute by default; None is no limit."""

    requests: int | None = None
    tokens: int | None = None
    """Input and output tokens together."""


@dataclass(frozen=True, slots=True)
class RateRequest:
    """The share of one rate that a call requests."""

    name: str
    """`provider` or `provider/model`: calls with the same name share one rate."""
    rate: Rate
    tokens: int


@dataclass(frozen=True, slots=True)
class RateGrant:
    """The shares that a call was granted, to be corrected or returned later."""

    requests: tuple[RateRequest, ...]
    slot: int
    """The time slot of the grant, as the limiter counts slots."""


@dataclass(frozen=True, slots=True)
class RateDenied:
    """A call must wait `seconds`: until capacity is expected, or a provider's ban ends."""

    seconds: float


def rate_requests(
    rates: Mapping[str, Rate], *, provider: str, model: str, tokens: int
) -> tuple[RateRequest, ...]:
    """Return a call's requests: for the rates of its provider and its model, if set."""
    return tuple(
        # a call larger than the whole rate requests all of it; it would never be granted otherwise
        RateRequest(name, rate, tokens if rate.tokens is None else min(tokens, rate.tokens))
        for name in (provider, f"{provider}/{model}")
        if (rate := rates.get(name)) is not None
    )


MAX_COUNT = 2**31 - 1
MAX_COST = Decimal(10**9)

CASSETTE = "cassette"
"""Prefix of the provider's name in replayed calls."""


def dollars(amount: Decimal) -> str:
    """Return US dollars as a text: plain digits, at least two of them after the point."""
    whole, _, part = f"{amount.normalize():f}".partition(".")
    return f"{whole}.{part:0<2}"


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One request to a model, as it is charged.

    Tokens are counts (`cached_tokens` are part of `input_tokens`), latency is in milliseconds,
    cost in US dollars or None if no price is known. Raises ValueError for numbers that can't be
    stored: negative and too large ones.
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
    """The estimate that budgets are charged if the provider reported no usage."""
    made: float | None = None
    """Its time, in `time.monotonic()` seconds of this process; None: the time of storing."""
    day: date | None = None
    """The day (UTC) of the budget windows that it is charged to; None: the day of `made`."""

    def __post_init__(self) -> None:
        """Refuse, in the agent that reports it, what the database would refuse later."""
        for name in ("input_tokens", "output_tokens", "cached_tokens", "latency_ms"):
            if not 0 <= getattr(self, name) <= MAX_COUNT:
                raise ValueError(f"{name} must be between 0 and {MAX_COUNT}")
        if self.cost is not None and not 0 <= self.cost < MAX_COST:
            raise ValueError(f"cost must be between 0 and {MAX_COST}")

    def as_replayed(self) -> "ModelCall":
        """Return the call as one that a cassette answered, at no cost."""
        return replace(self, provider=f"{CASSETTE}/{self.provider}", cost=Decimal(0))


@dataclass(frozen=True, slots=True)
class CallEstimate:
    """The estimate of a model call before it is made: its maximum usage.

    `cost` is in US dollars, None if no price is known. Admission checks limits and budgets with it.
    """

    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    cost: Decimal | None = None
    input_cost: Decimal | None = None
    """The input's part of `cost`."""
    least_tokens: int = 0
    """Its minimum usage: its input, estimated low, and the shortest useful answer."""
    least_cost: Decimal | None = None
    least_output: int | None = None
    """Tokens of the shortest useful answer; None: `MIN_ANSWER_TOKENS`."""
    output_limit: int | None = None
    """The answer limit in the request, if it differs from `output_tokens`."""


@dataclass(frozen=True, slots=True)
class Clip:
    """An answer limit that a budget requires, because no more is left of it."""

    output_tokens: int
    budget: str
    """The budget, in words."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """Permission for one model call, and what is reserved until it is charged."""

    id: UUID
    reserved: bool = True
    """Whether budgets hold a reservation under this id."""
    taken: RateGrant | None = None
    """Its grant of the provider's limits."""
    day: date | None = None
    """The day (UTC) of the budget windows with the reservation."""
    clip: Clip | None = None
    """The answer limit to set, if it is below the call's own."""
    free: bool = False
    """Whether cost is limited but the call's price is 0, so that nothing is reserved."""


@dataclass(frozen=True, slots=True)
class MadeCall:
    """A stored model call."""

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
    """How usage is grouped."""

    TASK = "task"
    USER = "user"
    DAY = "day"
    MODEL = "model"
    WORKSPACE = "workspace"


@dataclass(frozen=True, slots=True)
class UsageTotal:
    """The usage of the model calls of a task, a user, a day, a model or a workspace.

    `key` is an id, `2026-11-22`, or `provider/model`; `unpriced_calls` have no known price and are
    not part of `cost`.
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
    """The usage to add up; both days (UTC) are included, None means all."""

    since: date
    until: date
    workspace_id: UUID | None
    owner_id: UUID | None = None
    task_id: UUID | None = None
