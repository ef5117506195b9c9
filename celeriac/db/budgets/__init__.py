"""Budgets: as they are set, and what is reserved and spent of them."""

from celeriac.db.budgets.reserving import (
    ChargeScope,
    ReservationResult,
    begin_windows,
    raise_limits,
    release_leaked,
    reserve,
    settle,
    spend,
    subjects,
)
from celeriac.db.budgets.stored import find, get, put, remove, standings

__all__ = [
    "ChargeScope",
    "ReservationResult",
    "begin_windows",
    "find",
    "get",
    "put",
    "raise_limits",
    "release_leaked",
    "remove",
    "reserve",
    "settle",
    "spend",
    "standings",
    "subjects",
]
