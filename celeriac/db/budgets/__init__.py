"""Budgets: as they are set, and what is reserved and spent of them."""

from celeriac.db.budgets.reserving import (
    Payer,
    Reserving,
    begin_windows,
    raise_limits,
    release_leaked,
    reserve,
    settle,
    spend,
    subjects,
)

__all__ = [
    "Payer",
    "Reserving",
    "begin_windows",
    "raise_limits",
    "release_leaked",
    "reserve",
    "settle",
    "spend",
    "subjects",
]
