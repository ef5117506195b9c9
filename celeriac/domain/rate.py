"""Rates: how many requests and tokens a minute a provider is sent, by all workers together."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """What one window, a minute unless told otherwise, may hold; None bounds nothing."""

    requests: int | None = None
    tokens: int | None = None
    """Input and output tokens together."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a call takes from one of the rates that apply to it."""

    name: str
    """`provider` or `provider/model`: calls with the same name share one rate."""
    rate: Rate
    tokens: int


@dataclass(frozen=True, slots=True)
class Taken:
    """What a call has taken, so that it can be corrected or given back."""

    demands: tuple[Demand, ...]
    slot: int
    """The piece of time in which it was taken, as the limiter counts them."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A call must wait `seconds`: until there may be room, or a provider's ban is over."""

    seconds: float


def demands(
    rates: Mapping[str, Rate], *, provider: str, model: str, tokens: int
) -> tuple[Demand, ...]:
    """Return what a call takes: from its provider's rate and from its model's, where set."""
    names = (provider, f"{provider}/{model}")
    return tuple(_demand(name, rates[name], tokens) for name in names if name in rates)


def _demand(name: str, rate: Rate, tokens: int) -> Demand:
    # one that is larger than the whole rate takes all of it, and so gets its turn
    return Demand(name, rate, tokens if rate.tokens is None else min(tokens, rate.tokens))
