"""Secrets of a workspace, without their values."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import Field

from celeriac.wire.base import Links, Wire, links


class Secret(Wire):
    """A secret, without its value, which is never shown."""

    id: UUID
    name: str = Field(description="Agents name it by this.", examples=["github"])
    source: str = Field(
        description="`stored`: the value was given, and is stored encrypted. `worker`: workers "
        "read it on their machines.",
        examples=["stored"],
    )
    worker_source: str | None = Field(
        description="The source's name in the workers' `CELERIAC_SECRET_SOURCES`.", examples=[None]
    )
    github_app: dict[str, Any] | None = Field(
        description="The GitHub App whose tokens attempts get; the value is its private key.",
        examples=[None],
    )
    description: str = Field(examples=["Reads the repositories of the shop"])
    version: int = Field(description="Counts the values that it has had.", examples=[1])
    workspace_id: UUID
    owner_id: UUID = Field(description="Who made it.")
    created_by: str = Field(description="Their name.", examples=["ada"])
    created_at: datetime
    updated_at: datetime
    links: Links = links(self="/api/v1/secrets/{id}")


class Reencrypted(Wire):
    """What was encrypted anew."""

    reencrypted: int = Field(
        description="How many values had another key than the first one.", examples=[3]
    )
