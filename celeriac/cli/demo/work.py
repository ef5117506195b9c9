"""The demo's work, done over HTTP as any program would: agents, tasks, executions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from celeriac.cli.demo.plan import Plan
from celeriac.client import Client, ClientError
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.states import LIVE, Status
from celeriac.wire import Event, Execution

_TAKEN = "name_taken"


@dataclass(frozen=True, slots=True)
class Piece:
    """One execution of the demo, and what it works on."""

    execution_id: UUID
    task: str
    text: str


def clear_away(client: Client) -> int:
    """Cancel what a demo that was cut short has left; return how many executions that is.

    The demo's home is its own: whatever has not ended there came from such a demo.
    """
    left = list(client.executions.list(status=[each.value for each in LIVE]))
    for execution in left:
        client.executions.cancel(execution.id)
    return len(left)


def set_up(client: Client, plan: Plan) -> None:
    """Make the plan's agents and tasks, or bring those of an earlier demo up to date."""
    for agent in plan.agents:
        rest = {"spec": agent["spec"], "description": agent.get("description", "")}
        try:
            client.agents.create(agent["name"], **rest)
        except ClientError as error:
            if error.code != _TAKEN:
                raise
            client.agents.change(agent["name"], **rest)
    for task in plan.tasks:
        _set_up_task(client, task)


def _set_up_task(client: Client, task: Mapping[str, Any]) -> None:
    name, agent = task["name"], task["agent"]
    spec, description = task["spec"], task.get("description", "")
    try:
        client.tasks.create(name, agent, spec, description=description)
    except ClientError as error:
        if error.code != _TAKEN:
            raise
        client.tasks.change(name, agent=agent, spec=spec, description=description, active=True)


def submit(client: Client, plan: Plan) -> Sequence[Piece]:
    """Start every task on every text in the background."""
    return [
        Piece(
            client.executions.execute(task["name"], {"text": content}).execution_id,
            task["name"],
            text,
        )
        for text, content in plan.texts.items()
        for task in plan.tasks
    ]


@dataclass(frozen=True, slots=True)
class Proof:
    """What an execution's own log says of how often it was begun, lost and completed."""

    started: int
    lost: int
    completed: int
    gapless: bool

    @property
    def holds(self) -> bool:
        """Whether it was completed exactly once, whatever happened to its workers."""
        return self.completed == 1 and self.gapless


def prove(events: Sequence[Event]) -> Proof:
    """Count what the log of one execution says."""
    kinds = [event.type for event in events]
    return Proof(
        started=kinds.count(EventType.STARTED),
        lost=kinds.count(EventType.WORKER_LOST),
        completed=kinds.count(EventType.COMPLETED),
        gapless=[event.seq for event in events] == list(range(1, len(events) + 1)),
    )


@dataclass(frozen=True, slots=True)
class Ended:
    """A piece of the demo as it ended."""

    piece: Piece
    execution: Execution
    proof: Proof

    @property
    def fault(self) -> str | None:
        """What went wrong with it, or None."""
        where = f"{self.piece.task} on {self.piece.text}"
        if self.execution.status is not Status.COMPLETED:
            error = f"{self.execution.error_code}: {self.execution.error_message}"
            return f"{where} ended {self.execution.status.value} ({error})"
        if not self.proof.holds:
            return (
                f"{where} has {self.proof.completed} `completed` events"
                f"{'' if self.proof.gapless else ' and gaps in its log'}"
            )
        return None


def collect(client: Client, pieces: Sequence[Piece]) -> Sequence[Ended]:
    """Return all pieces with their final rows and what their logs prove."""
    return [
        Ended(
            piece,
            client.executions.get(piece.execution_id),
            prove(list(client.executions.events(piece.execution_id))),
        )
        for piece in pieces
    ]
