"""Conditions on several ids that name the partitions, too.

While it plans, the server leaves out partitions that values exclude. Ids that come from another
part of the statement are no values: the least and the greatest id exclude partitions for them, too.
Ids that are used together were mostly made at about the same time.
"""

from collections.abc import Sequence
from uuid import UUID

_NONE = UUID(int=0)


def given(column: str) -> str:
    """Return whether `column` is one of the ids of `of`, as SQL."""
    return f"{column} = ANY (CAST(:ids AS uuid[])) AND {within(column)}"


def within(column: str) -> str:
    """Return whether `column` is between the least and the greatest id of `of`, as SQL.

    To be added to a condition on ids that are among them.
    """
    return f"{column} BETWEEN CAST(:least_id AS uuid) AND CAST(:most_id AS uuid)"


def of(ids: Sequence[UUID]) -> dict[str, object]:
    """Return the parameters of `given` and `within`."""
    return {
        "ids": list(ids),
        "least_id": min(ids, default=_NONE),
        "most_id": max(ids, default=_NONE),
    }
