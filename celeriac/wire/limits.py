"""Limits of workspaces."""

from datetime import datetime
from uuid import UUID

from pydantic import Field

from celeriac.domain.limit_policies import LimitCount, LimitOf, LimitPolicy
from celeriac.wire.base import Links, Wire, links


class Limit(Wire):
    """A limit of a workspace: how many executions or runs with the same key run at once.

    Of a rate, how many executions begin.
    """

    id: UUID
    workspace_id: UUID
    name: str = Field(examples=["per-customer"])
    task_id: UUID | None = Field(description="The task whose executions it is about.")
    task_name: str | None = Field(examples=["summarise"])
    workflow_id: UUID | None = Field(
        description="The workflow that it is about. Without both: all of the workspace."
    )
    workflow_name: str | None
    of: LimitOf = Field(
        description="Whether it is about executions, of a workflow those of its steps, or about "
        "the workflow's runs."
    )
    key: str | None = Field(
        description="A CEL expression; what has the same value shares the slots. Null: all do.",
        examples=["variables.customer"],
    )
    max: int = Field(
        description="How many run at once; of a rate, how many begin in `seconds`.", examples=[3]
    )
    seconds: float | None = Field(description="Of a rate; null for what may run at once.")
    burst: int | None = Field(
        description="Of a rate: how many may begin at once after a rest; null: those of a second."
    )
    policy: LimitPolicy = Field(description="What happens to one for which there is no slot.")
    count: LimitCount = Field(
        description="Of runs: `running` does not count those that only wait for approvals or other "
        "runs, `active` does."
    )
    held: int = Field(
        description="How many executions or runs have a slot, of all keys; counted up to 1,000.",
        examples=[2],
    )
    waiting: int = Field(
        description="How many wait and need a slot of it; counted up to 1,000.", examples=[0]
    )
    in_use: int = Field(
        description="How many executions or runs that have not ended have it: those that its "
        "deletion lets go; counted up to 1,000.",
        examples=[2],
    )
    owner_id: UUID = Field(description="Who made it.")
    created_by: str = Field(description="Their name.", examples=["ada"])
    created_at: datetime
    updated_at: datetime
    links: Links = links(
        self="/api/v1/limits/{id}",
        task="/api/v1/tasks/{task_id}",
        workflow="/api/v1/workflows/{workflow_id}",
    )
