"""Metering of model calls."""

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One request to a model, as it is charged.

    Tokens are counts (`cached_tokens` are part of `input_tokens`), latency is in milliseconds,
    cost in US dollars or None where no price is known.
    """

    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    latency_ms: int = 0
    finish_reason: str | None = None
    cost: Decimal | None = None
