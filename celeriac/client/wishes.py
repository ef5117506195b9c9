"""What a caller may wish for one execution, beside its variables."""

from collections.abc import Mapping
from typing import Any, TypedDict
from uuid import UUID

from celeriac.domain.budget import Budget


class Wishes(TypedDict, total=False):
    """Options of a run; each may be left out."""

    priority: str | None
    queue: str | None
    session_id: str | UUID | None
    """An earlier session to go on with."""
    fork_session: bool
    """Go on with a copy of it, which leaves it as it is."""
    budget: Budget | Mapping[str, Any] | None
    """Instead of the task's: `max_cost`, `max_tokens`, `on_budget`."""
    record: bool
    """Save the model traffic as a cassette."""
    cassette_id: str | UUID | None
    """Answer model requests from this cassette."""


def wished(wishes: Wishes) -> dict[str, Any]:
    """Return the fields of a request for `wishes`; those that wish for nothing are left out."""
    body: dict[str, Any] = {}
    for name, value in wishes.items():
        if isinstance(value, UUID):
            body[name] = str(value)
        elif isinstance(value, Budget):
            body[name] = value.model_dump(mode="json", exclude_none=True)
        elif value is not None and value is not False:
            body[name] = value
    return body
