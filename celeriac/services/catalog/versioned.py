"""What agents, tasks and workflows share.

References, creation, changes and deletion, with audit entries.
"""

from uuid import UUID

from celeriac.db import audit
from celeriac.db.catalog import Spec, T, Versioned, is_same
from celeriac.db.engine import Connection, Database
from celeriac.domain.accounts import Actor
from celeriac.domain.audit import changes
from celeriac.domain.errors import NameTakenError
from celeriac.kit.ids import parse_uuid
from celeriac.services.reading import present


def get(
    connection: Connection,
    stored: Versioned[T],
    actor: Actor,
    reference: str,
    *,
    lock: bool = False,
) -> T:
    """Return what `reference` means in the actor's workspace: an id or a name.

    `lock` locks the row for a change. Raises NotFoundError.
    """
    key = parse_uuid(reference) or stored.id_of_name(
        connection, reference, workspace=actor.workspace_id
    )
    found = (
        None
        if key is None
        else stored.by_id(connection, key, workspace=actor.workspace_id, lock=lock)
    )
    return present(found, stored.name, reference)


def resolve(database: Database, stored: Versioned[T], actor: Actor, reference: str) -> UUID:
    """Return the id that `reference` means in the actor's workspace.

    An id is returned unchecked. Raises NotFoundError for an unknown name.
    """
    key = parse_uuid(reference)
    if key is None:
        with database.autocommit() as connection:
            key = stored.id_of_name(connection, reference, workspace=actor.workspace_id)
    return present(key, stored.name, reference)


def get_named(
    connection: Connection, stored: Versioned[T], actor: Actor, name: str, *, lock: bool
) -> T | None:
    """Return what has that name in the actor's workspace, or None."""
    workspace = actor.workspace_id
    key = stored.id_of_name(connection, name, workspace=workspace)
    return None if key is None else stored.by_id(connection, key, workspace=workspace, lock=lock)


def add(
    connection: Connection,
    stored: Versioned[T],
    actor: Actor,
    *,
    name: str,
    spec: Spec,
    **values: object,
) -> T:
    """Store what is checked in the caller's transaction. Raises NameTakenError."""
    key = stored.add(
        connection,
        workspace=actor.workspace_id,
        owner=actor.user_id,
        name=name,
        spec=spec,
        **values,
    )
    if key is None:
        article = "an" if stored.name == "agent" else "a"
        raise NameTakenError(
            f"The workspace already has {article} {stored.name} named {name!r}; choose another "
            "name or change that one.",
            field="name",
        )
    audit.record(connection, actor, f"{stored.name}.create", [key])
    return get(connection, stored, actor, str(key))


def change(
    connection: Connection,
    stored: Versioned[T],
    actor: Actor,
    before: T,
    *,
    spec: Spec | None,
    **values: object,
) -> T:
    """Change what is locked and checked in the caller's transaction; None keeps a value."""
    if spec is not None and is_same(spec, before.spec):
        spec = None
    stored.change(connection, before, spec=spec, **values)
    after = get(connection, stored, actor, str(before.id))
    details, action = changes(before, after), f"{stored.name}.change"
    audit.record(connection, actor, action, [before.id], details=details)
    return after


def delete(
    connection: Connection, stored: Versioned[T], actor: Actor, found: T, **values: object
) -> None:
    """Delete what is locked in the caller's transaction; its versions stay."""
    stored.delete(connection, found.id, **values)
    details, action = {"name": found.name}, f"{stored.name}.delete"
    audit.record(connection, actor, action, [found.id], details=details)
