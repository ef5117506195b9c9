"""Users, agents and tasks for tests of the core, made through the product's own services."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from uuid import UUID

from celeriac.db import accounts, workspaces
from celeriac.db.engine import Database
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.agents import AgentSpec, PythonAgent
from celeriac.domain.tasks import TaskSpec
from celeriac.services.catalog.agents import Agents
from celeriac.services.catalog.tasks import Tasks
from tests.support import fleet_agents

_numbers = count(1)


def make_actor(database: Database, role: Role = Role.OPERATOR) -> Actor:
    """Store a user and return them as who is asking, in their personal workspace."""
    name = f"user-{next(_numbers)}"
    with database.transaction() as connection:
        user_id = accounts.add_user(connection, name=name, role=role)
        assert user_id is not None, f"the name {name} is taken"
        user = accounts.user(connection, user_id)
    assert user is not None
    return Actor(user_id, name, role, user.workspace_id, administrator=role is Role.ADMIN)


def make_colleague(database: Database, actor: Actor, role: Role = Role.OPERATOR) -> Actor:
    """Store another user, and return them as who is asking in the actor's workspace."""
    other = make_actor(database)
    with database.transaction() as connection:
        workspaces.add_member(connection, actor.workspace_id, other.user_id, role)
    return replace(other, role=role, workspace_id=actor.workspace_id)


def make_task(
    database: Database,
    actor: Actor,
    function: str = "noop",
    spec: TaskSpec | None = None,
    *,
    environment: Sequence[str] = (),
) -> UUID:
    """Store a task of a `python` agent that calls a function of `fleet_agents`; return its id."""
    path = function if ":" in function else f"{fleet_agents.__name__}:{function}"
    agent = PythonAgent(function=path, environment=tuple(environment))
    return make_task_of(database, actor, agent, spec)


def make_task_of(
    database: Database, actor: Actor, agent: AgentSpec, spec: TaskSpec | None = None
) -> UUID:
    """Store a task of any agent; return its id."""
    number = next(_numbers)
    Agents(database).create(actor, name=f"agent-{number}", spec=agent)
    made = Tasks(database).create(
        actor, name=f"task-{number}", agent=f"agent-{number}", spec=spec or TaskSpec()
    )
    return made.id
