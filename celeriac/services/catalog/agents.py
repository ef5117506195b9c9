"""Agents: creation, reading, changes and deletion."""

from collections.abc import Iterator
from functools import partial
from uuid import UUID

import structlog

from celeriac.db.catalog import AGENTS, names_with_agent
from celeriac.db.engine import Connection, Database
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.agents import AgentSpec, CrewaiAgent, LlmAgent
from celeriac.domain.environment import EnvironmentRule
from celeriac.domain.errors import ConflictError, InvalidInputError
from celeriac.domain.paging import Page
from celeriac.domain.tasks import Agent
from celeriac.services.catalog import versioned
from celeriac.services.reading import read_page
from celeriac.services.secrets.grants import FIELD, require_grant, spec_faults, unknown_secrets

logger = structlog.get_logger(__name__)

_TASKS_SHOWN = 5


class Agents:
    """The agents of all workspaces. Safe to share between threads.

    A `reference` is an id, or a name in the actor's workspace.
    """

    def __init__(self, database: Database, environment: EnvironmentRule | None = None) -> None:
        """Work on `database`; `environment` says which variables agents may name (None: none)."""
        self._database = database
        self._environment = environment or EnvironmentRule()

    def create(self, actor: Actor, *, name: str, spec: AgentSpec, description: str = "") -> Agent:
        """Store an agent at version 1. Raises ForbiddenError, NameTakenError, InvalidInputError.

        Its name is unique among the workspace's agents.
        """
        actor.require(Role.OPERATOR)
        self._check(spec)
        require_grant(actor, spec, None)
        with self._database.transaction() as connection:
            _check_secrets(connection, actor, spec)
            agent = versioned.add(
                connection, AGENTS, actor, name=name, description=description, spec=spec
            )
        logger.info("agent.created", agent_id=agent.id, name=name)
        return agent

    def get(self, actor: Actor, reference: str) -> Agent:
        """Return an agent that the actor may see. Raises NotFoundError."""
        with self._database.autocommit() as connection:
            return versioned.get(connection, AGENTS, actor, reference)

    def resolve(self, actor: Actor, reference: str) -> UUID:
        """Return the id that `reference` means; see `Tasks.resolve`."""
        return versioned.resolve(self._database, AGENTS, actor, reference)

    def find(self, actor: Actor, *, cursor: str | None = None, limit: int = 50) -> Page[Agent]:
        """Return a page of the agents that the actor may see. Raises CursorInvalidError."""
        find = partial(AGENTS.find, workspace=actor.workspace_id)
        return read_page(self._database, "agents", cursor, limit, find)

    def change(
        self,
        actor: Actor,
        reference: str,
        *,
        description: str | None = None,
        spec: AgentSpec | None = None,
    ) -> Agent:
        """Change an agent; executions that are submitted from now on use the changed one.

        None keeps a value. Raises ForbiddenError, NotFoundError, InvalidInputError.
        """
        actor.require(Role.OPERATOR)
        if spec is not None:
            self._check(spec)
        with self._database.transaction() as connection:
            agent = versioned.get(connection, AGENTS, actor, reference, lock=True)
            if spec is not None:
                require_grant(actor, spec, agent.spec)
                _check_secrets(connection, actor, spec)
            changed = versioned.change(
                connection, AGENTS, actor, agent, description=description, spec=spec
            )
        logger.info("agent.changed", agent_id=agent.id, version=changed.version)
        return changed

    def delete(self, actor: Actor, reference: str) -> None:
        """Delete an agent that no task uses; its versions stay.

        Raises ForbiddenError, NotFoundError, and ConflictError naming the tasks that use it.
        """
        actor.require(Role.OPERATOR)
        with self._database.transaction() as connection:
            agent = versioned.get(connection, AGENTS, actor, reference, lock=True)
            users = names_with_agent(connection, agent.id, limit=_TASKS_SHOWN + 1)
            if users:
                more = " and others" if len(users) > _TASKS_SHOWN else ""
                raise ConflictError(
                    f"The agent {agent.name!r} does {', '.join(users[:_TASKS_SHOWN])}{more}. Give "
                    "these tasks another agent, or delete them first.",
                    tasks=users[:_TASKS_SHOWN],
                )
            versioned.delete(connection, AGENTS, actor, agent)
        logger.info("agent.deleted", agent_id=agent.id, name=agent.name)

    def faults(self, spec: AgentSpec) -> Iterator[InvalidInputError]:
        """Yield what is wrong with a specification for any worker."""
        if isinstance(spec, LlmAgent) and not all(spec.model.partition("/")[::2]):
            yield InvalidInputError(
                f"The model is {spec.model!r}; it must be provider/model, such as local/smollm2 or "
                "openai/gpt-5-mini.",
                field="spec.model",
            )
        refusal = self._environment.refusal(getattr(spec, "environment", ()))
        if refusal:
            yield InvalidInputError(refusal, field="spec.environment")
        yield from spec_faults(spec, self._environment)
        faults = [str(each) for each in spec.crew.check()] if isinstance(spec, CrewaiAgent) else []
        if faults:
            yield InvalidInputError(
                f"The crew can't be run: {'; '.join(faults)}", field="spec.crew", faults=faults
            )

    def _check(self, spec: AgentSpec) -> None:
        for fault in self.faults(spec):
            raise fault


def _check_secrets(connection: Connection, actor: Actor, spec: AgentSpec) -> None:
    fault = unknown_secrets(connection, actor, spec)
    if fault is not None:
        raise InvalidInputError(fault, field=FIELD)
