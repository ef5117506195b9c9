"""Secrets of a workspace: made, found, changed and deleted (docs/adr/0078)."""

from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

import structlog

from celeriac.db import audit, workspaces
from celeriac.db import secrets as rows
from celeriac.db.engine import Connection, Database
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.errors import (
    ConflictError,
    InvalidInputError,
    NameTakenError,
    NotFoundError,
)
from celeriac.domain.paging import Page
from celeriac.domain.secrets.cipher import SecretCipher
from celeriac.domain.secrets.minted import GithubApp, private_key
from celeriac.domain.secrets.model import MOST_SECRETS, Secret, SecretSource, check_value
from celeriac.kit.ids import parse_uuid, uuid7
from celeriac.kit.json_types import JsonObject
from celeriac.services.reading import present, read_page

logger = structlog.get_logger(__name__)

_BATCH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSecret:
    """A secret to create, with a value or the name of a worker's source."""

    name: str
    value: str | None = field(default=None, repr=False)
    worker_source: str | None = None
    github_app: GithubApp | None = None
    """With the app's private key as value: attempts get tokens of the app."""
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretChange:
    """What to change of a secret; None stays."""

    value: str | None = field(default=None, repr=False)
    worker_source: str | None = None
    description: str | None = None


class Secrets:
    """The secrets of workspaces. Safe to share between threads.

    A `reference` is an id, or a name in the actor's workspace. No method returns a value.
    """

    def __init__(self, database: Database, cipher: SecretCipher) -> None:
        self._database = database
        self._cipher = cipher

    def create(self, actor: Actor, new: NewSecret) -> Secret:
        """Create a secret. One that workers read on their machines needs an administrator.

        Raises ForbiddenError, InvalidInputError, NameTakenError, and ConflictError if there are
        too many.
        """
        actor.require(Role.ADMIN)
        if (new.value is None) == (new.worker_source is None):
            raise InvalidInputError(
                "Give the secret either a value or a worker_source, the name of a source that the "
                "workers' administrator has configured.",
                field="value",
            )
        _check(actor, new.value, new.worker_source)
        if new.github_app is not None:
            private_key(new.value or "")
        secret_id, workspace = uuid7(), actor.workspace_id
        source = SecretSource.WORKER if new.value is None else SecretSource.STORED
        values: dict[str, object] = {
            "id": secret_id,
            "workspace_id": workspace,
            "owner_id": actor.user_id,
            "created_by": actor.name,
            "name": new.name,
            "source": source.value,
            "worker_source": new.worker_source,
            "github_app": None if new.github_app is None else new.github_app.model_dump(),
            "description": new.description,
            "sealed": self._sealed(secret_id, 1, new.value),
        }
        with self._database.transaction() as connection:
            if not workspaces.lock(connection, workspace):
                raise NotFoundError("workspace", workspace)
            if rows.count(connection, workspace=workspace) >= MOST_SECRETS:
                raise ConflictError(
                    f"The workspace has {MOST_SECRETS} secrets, which is the most; delete one "
                    "first."
                )
            if not rows.add(connection, values):
                raise NameTakenError(
                    f"The workspace already has a secret named {new.name!r}; choose another name "
                    "or set its value with `celeriac secrets change`.",
                    field="name",
                )
            details: JsonObject = {
                "name": new.name,
                "source": source.value,
                "worker_source": new.worker_source,
            }
            audit.record(connection, actor, "secret.create", [secret_id], details=details)
            made = _found(connection, actor, str(secret_id))
        logger.info("secret.created", secret_id=secret_id, source=source.value)
        return made

    def get(self, actor: Actor, reference: str) -> Secret:
        """Return a secret, without its value. Raises NotFoundError."""
        with self._database.autocommit() as connection:
            return _found(connection, actor, reference)

    def find(self, actor: Actor, *, cursor: str | None = None, limit: int = 50) -> Page[Secret]:
        """Return a page of the workspace's secrets, the newest first. Raises CursorInvalidError."""
        find = partial(rows.find, workspace=actor.workspace_id)
        return read_page(self._database, "secrets", cursor, limit, find)

    def change(self, actor: Actor, reference: str, wanted: SecretChange) -> Secret:
        """Give a secret another value, source of the workers, or description.

        A stored secret stays stored, and one that workers read stays so.

        Attempts that start from now on get the new value. Raises ForbiddenError, NotFoundError and
        InvalidInputError.
        """
        actor.require(Role.ADMIN)
        with self._database.transaction() as connection:
            before = _found(connection, actor, reference, lock=True)
            if before.source is SecretSource.WORKER:
                actor.require_administrator()
            _check_kind(before, wanted)
            _check(actor, wanted.value, wanted.worker_source)
            if before.github_app is not None and wanted.value is not None:
                private_key(wanted.value)
            values: dict[str, object] = {}
            if wanted.value is not None or wanted.worker_source is not None:
                values["version"] = version = before.version + 1
                if wanted.value is not None:
                    values["sealed"] = self._sealed(before.id, version, wanted.value)
                else:
                    values["worker_source"] = wanted.worker_source
            if wanted.description is not None:
                values["description"] = wanted.description
            if not values:
                return before
            rows.change(connection, before.id, **values)
            details: JsonObject = {
                "name": before.name,
                "fields": ["value" if each == "sealed" else each for each in sorted(values)],
            }
            audit.record(connection, actor, "secret.change", [before.id], details=details)
            after = _found(connection, actor, str(before.id))
        logger.info("secret.changed", secret_id=after.id, version=after.version)
        return after

    def delete(self, actor: Actor, reference: str) -> None:
        """Delete a secret; attempts of agents that name it fail from now on.

        Raises ForbiddenError, NotFoundError.
        """
        actor.require(Role.ADMIN)
        with self._database.transaction() as connection:
            gone = _found(connection, actor, reference, lock=True)
            rows.remove(connection, gone.id)
            details: JsonObject = {"name": gone.name, "source": gone.source.value}
            audit.record(connection, actor, "secret.delete", [gone.id], details=details)
        logger.info("secret.deleted", secret_id=gone.id)

    def reencrypt(self, actor: Actor) -> int:
        """Encrypt all stored values with the first key; return how many had another one.

        After that, the other keys can be removed. Raises ForbiddenError, and ConfigurationError if
        a value was encrypted with an unknown key; what was done before stays done.
        """
        actor.require_administrator()
        changed, last = 0, None
        while True:
            with self._database.transaction() as connection:
                batch = rows.after(connection, last, limit=_BATCH)
                done = sum(self._reseal(connection, each) for each in batch)
                if done:
                    details: JsonObject = {"count": done}
                    audit.record(
                        connection,
                        actor,
                        "secret.reencrypt",
                        [actor.workspace_id],
                        details=details,
                    )
            changed += done
            if len(batch) < _BATCH:
                logger.info("secret.reencrypted", count=changed)
                return changed
            last = batch[-1].secret.id

    def _reseal(self, connection: Connection, stored: rows.Sealed) -> bool:
        secret, sealed = stored.secret, stored.sealed
        if sealed is None or sealed.startswith(self._cipher.key_id):
            return False
        value = self._cipher.decrypt(secret.id, secret.version, sealed)
        rows.reseal(connection, secret.id, self._cipher.encrypt(secret.id, secret.version, value))
        return True

    def _sealed(self, secret_id: UUID, version: int, value: str | None) -> bytes | None:
        return None if value is None else self._cipher.encrypt(secret_id, version, value)


def _check(actor: Actor, value: str | None, worker_source: str | None) -> None:
    if worker_source is not None:
        actor.require_administrator()
    if value is not None:
        check_value(value)


def _check_kind(before: Secret, wanted: SecretChange) -> None:
    stored = before.source is SecretSource.STORED
    if stored and wanted.worker_source is not None:
        raise InvalidInputError(
            f"The value of {before.name!r} is stored; delete it and create it anew to let workers "
            "read it.",
            field="worker_source",
        )
    if not stored and wanted.value is not None:
        raise InvalidInputError(
            f"Workers read the value of {before.name!r} on their machines; delete it and create it "
            "anew to store a value.",
            field="value",
        )


def _found(connection: Connection, actor: Actor, reference: str, *, lock: bool = False) -> Secret:
    workspace = actor.workspace_id
    key = parse_uuid(reference) or rows.id_of_name(connection, reference, workspace=workspace)
    found = None if key is None else rows.get(connection, key, workspace=workspace, lock=lock)
    return present(found, "secret", reference)
