"""Checks of the secrets that agents, and the repositories of tasks, name."""

from collections.abc import Collection, Iterator

from celeriac.db import secrets as rows
from celeriac.db.catalog import is_same
from celeriac.db.engine import Connection
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.agents import AgentSpec, LlmAgent
from celeriac.domain.environment import EnvironmentRule
from celeriac.domain.errors import InvalidInputError
from celeriac.domain.secrets.model import HTTP_PORT, HTTPS_PORT
from celeriac.domain.tasks import TaskSpec
from celeriac.kit.destinations import Destination

FIELD = "spec.secrets"
REPOSITORY_FIELD = "spec.repository.secret"


def spec_faults(spec: AgentSpec, rule: EnvironmentRule) -> Iterator[InvalidInputError]:
    """Yield what is wrong with the variables of an agent's secrets, whichever there are."""
    variables = [each.variable for each in spec.secrets if each.variable is not None]
    twice = sorted({each for each in variables if variables.count(each) > 1})
    if twice:
        yield InvalidInputError(
            f"Two secrets of the agent have the same variable, {', '.join(twice)}; give each its "
            "own.",
            field=FIELD,
        )
    taken = sorted(set(variables) & set(getattr(spec, "environment", ())))
    if taken:
        yield InvalidInputError(
            f"{', '.join(taken)} is a variable of a secret and in the agent's environment; remove "
            "one of them.",
            field=FIELD,
        )
    ours = rule.reserved_among(variables)
    if ours:
        yield InvalidInputError(
            f"The agent's secrets have the variable {', '.join(ours)}, which configures Celeriac "
            "itself. Give them another variable.",
            field=FIELD,
        )
    yield from _host_faults(spec)
    if spec.secrets and isinstance(spec, LlmAgent) and all(each.url for each in spec.mcp_servers):
        yield InvalidInputError(
            "Secrets of an llm agent are variables of its MCP servers over stdio, and it has none. "
            "Remove the secrets, or add such a server.",
            field=FIELD,
        )


def _host_faults(spec: AgentSpec) -> Iterator[InvalidInputError]:
    named = [(each.endpoint, each.header.lower()) for each in spec.secrets if each.host is not None]
    if len(named) != len(set(named)):
        yield InvalidInputError(
            "Two secrets of the agent are the same header of the same host; remove one of them.",
            field=FIELD,
        )
    allowed = [Destination.read(each) for each in spec.confinement.network or ()]
    for grant in spec.secrets:
        host, port = grant.endpoint
        port = HTTPS_PORT if port == HTTP_PORT else port
        if grant.host is not None and not any(each.allows(host, port) for each in allowed):
            yield InvalidInputError(
                f"The secret {grant.name!r} is for {grant.host}, which the agent does not reach. "
                f"Add {grant.host} to the agent's confinement.network.",
                field=FIELD,
            )


def require_grant(actor: Actor, spec: AgentSpec, before: AgentSpec | None) -> None:
    """Raise ForbiddenError unless the actor may store `spec` in the place of `before`.

    What an agent with secrets does is decided by admins: a person who changes such an agent
    could have the values.
    """
    if spec.secrets and (before is None or not is_same(spec, before)):
        actor.require(Role.ADMIN)


def require_repository_grant(actor: Actor, spec: TaskSpec, before: TaskSpec | None) -> None:
    """Raise ForbiddenError unless the actor may store `spec` in the place of `before`.

    Where a secret is sent, and which branches may be pushed with it, is decided by admins. What is
    in a change is not: operators choose the agent and the variables.
    """
    if _secret_of(spec) is not None and (before is None or not is_same(spec, before)):
        actor.require(Role.ADMIN)


def unknown_secrets(connection: Connection, actor: Actor, spec: AgentSpec) -> str | None:
    """Return what is wrong if the agent names secrets that its workspace doesn't have, or None."""
    return _missing(connection, actor, {each.name for each in spec.secrets})


def unknown_repository_secret(connection: Connection, actor: Actor, spec: TaskSpec) -> str | None:
    """Return what is wrong if the task's repository names an unknown secret, or None."""
    name = _secret_of(spec)
    return None if name is None else _missing(connection, actor, {name})


def _secret_of(spec: TaskSpec) -> str | None:
    return None if spec.repository is None else spec.repository.secret


def _missing(connection: Connection, actor: Actor, names: Collection[str]) -> str | None:
    if not names:
        return None
    missing = set(names) - rows.existing(connection, names, workspace=actor.workspace_id)
    if not missing:
        return None
    return (
        f"The workspace has no secret {', '.join(map(repr, sorted(missing)))}. Create it with "
        "`celeriac secrets create`, or correct the name."
    )
