"""The states of groups of failures; without heavy imports, for the command line."""

from enum import StrEnum


class FailureState(StrEnum):
    """What people have decided about a group of failures."""

    NEW = "new"
    """Nobody has looked at it."""
    KNOWN = "known"
    RESOLVED = "resolved"
    """Its cause was removed."""
    MUTED = "muted"
    """It may recur: nobody wants to hear of it."""
    REGRESSED = "regressed"
    """It has failed again after it was resolved."""


SETTABLE = (FailureState.KNOWN, FailureState.RESOLVED, FailureState.MUTED)
"""The states that people set; the others are the keeper's."""
