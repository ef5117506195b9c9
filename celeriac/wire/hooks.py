"""Inbound hooks and what was delivered to them."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import Field

from celeriac.domain.hooks.model import HookDeliveryStatus, Verification
from celeriac.wire.base import ID, Links, Wire, links

_URL = "https://celeriac.example.com/hooks/AZnzohxefTCaZAuPax0sEY0x1m5kqQ0Vw2Fq0H3mD7o"


class Hook(Wire):
    """A URL whose requests start executions of a task, or runs of a workflow."""

    id: UUID
    workspace_id: UUID
    owner_id: UUID = Field(description="Who made it. It acts with their rights.")
    url: str = Field(
        description="Where the sender posts to: at CELERIAC_PUBLIC_URL, or where the API listens.",
        examples=[_URL],
    )
    name: str | None = Field(description="Unique in the workspace.", examples=["shop"])
    task_id: UUID | None = Field(examples=[ID])
    task_name: str | None = Field(
        description="Null for a workflow, and if the task was deleted.", examples=["summarise"]
    )
    workflow_id: UUID | None
    workflow_name: str | None
    description: str = Field(examples=["New issues of the shop"])
    verification: Verification = Field(examples=["github"])
    mapping: dict[str, Any] | None = Field(
        description="The variables, or the input of the run, with ${{ }}; null: the body.",
        examples=[{"text": "${{ body.issue.title }}"}],
    )
    when: str | None = Field(
        description="A condition; requests for which it is false are ignored.",
        examples=["body.action == 'opened'"],
    )
    per_minute: int = Field(
        description="Requests that each API process takes in a minute.", examples=[600]
    )
    active: bool = Field(description="false: it is paused and refuses.", examples=[True])
    given_secret: bool = Field(
        description="Whether its secret was given by the sender, and not made by Celeriac.",
        examples=[False],
    )
    previous_until: datetime | None = Field(
        description="Until when the secret before the last rotation is valid, too."
    )
    created_at: datetime
    updated_at: datetime
    links: Links = links(
        self="/api/v1/hooks/{id}",
        deliveries="/api/v1/hooks/{id}/deliveries",
        task="/api/v1/tasks/{task_id}",
        workflow="/api/v1/workflows/{workflow_id}",
    )


class HookWithSecret(Hook):
    """A hook that was just created, or whose secret was."""

    secret: str = Field(
        description="What the sender signs with. It is shown only once.", examples=["whsec_…"]
    )


class HookDelivery(Wire):
    """A request to a hook."""

    id: UUID
    hook_id: UUID
    status: HookDeliveryStatus = Field(examples=["accepted"])
    reason: str | None = Field(
        description="Why it was refused: not_signed, signature_wrong, too_old, or the code of the "
        "problem.",
    )
    message: str | None = Field(description="The same for people.")
    verified: bool = Field(description="Whether it was from the sender.", examples=[True])
    delivery_id: str | None = Field(
        description="What the sender calls it.", examples=["msg_2NcXoQ9v7kT0aU4r"]
    )
    size: int = Field(description="Bytes of the body.", examples=[1_204])
    execution_id: UUID | None = Field(examples=[ID])
    run_id: UUID | None
    received_at: datetime
    links: Links = links(
        hook="/api/v1/hooks/{hook_id}",
        execution="/api/v1/task-executions/{execution_id}",
        run="/api/v1/workflow-runs/{run_id}",
    )


class HookReceipt(Wire):
    """The answer to the sender of a genuine request."""

    status: HookDeliveryStatus = Field(
        description="ignored: the hook's condition did not hold, and nothing was started.",
        examples=["accepted"],
    )
    execution_id: UUID | None = Field(examples=[ID])
    run_id: UUID | None
