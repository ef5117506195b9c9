"""Agents: making, reading and changing them."""

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

import structlog
from sqlalchemy import Connection

from celeriac.db import audit
from celeriac.db.catalog import agents, tasks
from celeriac.db.engine import Database
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.agents import AgentSpec, CrewaiAgent, LlmAgent
from celeriac.domain.audit import changes
from celeriac.domain.environment import EnvironmentRule
from celeriac.domain.errors import ConflictError, InvalidInputError, NameTakenError, NotFoundError
from celeriac.domain.paging import Page, read_cursor
from celeriac.domain.tasks import Agent
from celeriac.kit.ids import parse_uuid

logger = structlog.get_logger(__name__)

_KIND = "agents"
_TASKS_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAgent:
    """What a new agent is; the name is unique among its owner's."""

    name: str
    spec: AgentSpec
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentChange:
    """What to change; None keeps what there is."""

    description: str | None = None
    spec: AgentSpec | None = None


class Agents:
    """The agents of all users. Safe to share between threads.

    Where a `reference` is taken it is an id, or the name of one of the actor's own agents.
    """

    def __init__(self, database: Database, environment: EnvironmentRule | None = None) -> None:
        """Work on `database`; `environment` says which variables agents may name: None for none."""
        self._database = database
        self._environment = environment or EnvironmentRule()

    def create(self, actor: Actor, new: NewAgent) -> Agent:
        """Store an agent at version 1. Raises ForbiddenError, NameTakenError, InvalidInputError."""
        actor.require(Role.OPERATOR)
        self._check(new.spec)
        with self._database.transaction() as connection:
            agent = add_agent(connection, actor, new)
        logger.info("agent.created", agent_id=agent.id, name=new.name)
        return agent

    def get(self, actor: Actor, reference: str) -> Agent:
        """Return an agent that the actor may see. Raises NotFoundError."""
        with self._database.statement() as connection:
            return _found(connection, actor, reference)

    def resolve(self, actor: Actor, reference: str) -> UUID:
        """Return the id that `reference` means for the actor, as `Tasks.resolve` does."""
        key = parse_uuid(reference)
        if key is None:
            with self._database.statement() as connection:
                key = agents.id_of_name(connection, reference, owner=actor.user_id)
        if key is None:
            raise NotFoundError("agent", reference)
        return key

    def find(self, actor: Actor, *, cursor: str | None = None, limit: int = 50) -> Page[Agent]:
        """Return a page of the agents that the actor may see. Raises CursorInvalidError."""
        before = read_cursor(_KIND, cursor)
        with self._database.statement() as connection:
            found = agents.find(connection, owner=actor.scope, before=before, limit=limit + 1)
        return Page.cut(
            found.items, limit=limit, kind=_KIND, key=lambda agent: agent.id, more=found.more
        )

    def change(self, actor: Actor, reference: str, wanted: AgentChange) -> Agent:
        """Change an agent; executions submitted from now on use it as it is then.

        Raises ForbiddenError, NotFoundError, InvalidInputError.
        """
        actor.require(Role.OPERATOR)
        if wanted.spec is not None:
            self._check(wanted.spec)
        with self._database.transaction() as connection:
            agent = _found(connection, actor, reference, lock=True)
            changed = change_agent(connection, actor, agent, wanted)
        logger.info("agent.changed", agent_id=agent.id, version=changed.version)
        return changed

    def faults(self, spec: AgentSpec) -> Iterator[InvalidInputError]:
        """Yield what any worker would refuse when it runs, or what costs too much."""
        if isinstance(spec, LlmAgent) and not all(spec.model.partition("/")[::2]):
            yield InvalidInputError(
                f"The model is {spec.model!r}; it must be provider/model, such as local/smollm2 or "
                "openai/gpt-5-mini.",
                field="spec.model",
            )
        refusal = self._environment.refusal(getattr(spec, "environment", ()))
        if refusal:
            yield InvalidInputError(refusal, field="spec.environment")
        faults = [str(each) for each in spec.crew.check()] if isinstance(spec, CrewaiAgent) else []
        if faults:
            yield InvalidInputError(
                f"The crew can't be run: {'; '.join(faults)}", field="spec.crew", faults=faults
            )

    def _check(self, spec: AgentSpec) -> None:
        for fault in self.faults(spec):
            raise fault

    def delete(self, actor: Actor, reference: str) -> None:
        """Delete an agent that no task uses; its versions stay for what they did.

        Raises ForbiddenError, NotFoundError, and ConflictError naming the tasks that use it.
        """
        actor.require(Role.OPERATOR)
        with self._database.transaction() as connection:
            agent = _found(connection, actor, reference, lock=True)
            users = tasks.names_with_agent(connection, agent.id, limit=_TASKS_SHOWN + 1)
            if users:
                more = " and others" if len(users) > _TASKS_SHOWN else ""
                raise ConflictError(
                    f"The agent {agent.name!r} does {', '.join(users[:_TASKS_SHOWN])}{more}. Give "
                    "these tasks another agent, or delete them first.",
                    tasks=users[:_TASKS_SHOWN],
                )
            agents.delete(connection, agent.id)
            details = {"name": agent.name}
            audit.record(connection, actor, "agent.delete", "agent", [agent.id], details=details)
        logger.info("agent.deleted", agent_id=agent.id, name=agent.name)


def add_agent(connection: Connection, actor: Actor, new: NewAgent) -> Agent:
    """Store a checked agent in the caller's transaction. Raises NameTakenError."""
    made = agents.add(
        connection,
        owner=actor.user_id,
        name=new.name,
        description=new.description,
        spec=new.spec,
    )
    if made is None:
        raise NameTakenError(
            f"You already have an agent named {new.name!r}; choose another name or change that "
            "one.",
            field="name",
        )
    audit.record(connection, actor, "agent.create", "agent", [made])
    return _found(connection, actor, str(made))


def change_agent(connection: Connection, actor: Actor, agent: Agent, wanted: AgentChange) -> Agent:
    """Change a locked agent, as checked, in the caller's transaction; return it as it is then."""
    spec = None if wanted.spec == agent.spec else wanted.spec
    agents.change(connection, agent, description=wanted.description, spec=spec)
    changed = _found(connection, actor, str(agent.id))
    details = changes(agent, changed)
    audit.record(connection, actor, "agent.change", "agent", [agent.id], details=details)
    return changed


def agent_named(connection: Connection, actor: Actor, name: str, *, lock: bool) -> Agent | None:
    """Return the actor's own agent of that name; `lock` holds its row for a change."""
    key = agents.id_of_name(connection, name, owner=actor.user_id)
    return None if key is None else agents.by_id(connection, key, owner=actor.user_id, lock=lock)


def used_agent(connection: Connection, actor: Actor, reference: str) -> Agent:
    """Return the agent that a task is given; it is not deleted before the commit.

    Raises NotFoundError.
    """
    agent = _found(connection, actor, reference)
    if not agents.keep(connection, agent.id):
        raise NotFoundError("agent", reference)
    return agent


def found_agent(connection: Connection, actor: Actor, reference: str) -> Agent:
    """Return the agent that `reference` means for the actor. Raises NotFoundError."""
    return _found(connection, actor, reference)


def _found(connection: Connection, actor: Actor, reference: str, *, lock: bool = False) -> Agent:
    key = parse_uuid(reference) or agents.id_of_name(connection, reference, owner=actor.user_id)
    agent = None
    if key is not None:
        agent = agents.by_id(connection, key, owner=actor.scope, lock=lock)
    if agent is None:
        raise NotFoundError("agent", reference)
    return agent
