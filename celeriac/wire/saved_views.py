"""Saved views of executions."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import Field

from celeriac.wire.base import Links, Wire, links


class SavedView(Wire):
    """A filter of executions under a name."""

    id: UUID
    name: str = Field(examples=["bad-invoices"])
    filter: dict[str, Any] = Field(
        description="Which executions; all given fields must match.",
        examples=[{"task": "invoice", "status": ["failed"], "created_within": 86_400}],
    )
    problem: str | None = Field(
        description="Why it can't be used: this release does not know a part of its filter."
    )
    shared: bool = Field(description="Whether all members of the workspace see it, or its owner.")
    built_in: bool = Field(description="Whether it is part of the release and stays as it is.")
    workspace_id: UUID | None
    owner_id: UUID | None = Field(description="Who made it; null if it is built in.")
    created_by: str | None = Field(description="Their name.", examples=["ada"])
    created_at: datetime | None
    updated_at: datetime | None
    links: Links = links(self="/api/v1/views/{id}")
