"""New API keys."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import structlog

from celeriac.db import accounts, audit
from celeriac.db.engine import Connection
from celeriac.domain.accounts import Actor, ApiKey, Role, User
from celeriac.kit.tokens import key_hash, new_token
from celeriac.services.reading import present

logger = structlog.get_logger(__name__)

KEY_SCHEME = "cel"


@dataclass(frozen=True, slots=True)
class NewKey:
    """A new key; `token` is shown once and stored nowhere."""

    key: ApiKey
    token: str


def add_key(
    connection: Connection,
    secret_key: str,
    actor: Actor,
    user: User,
    workspace_id: UUID,
    *,
    name: str,
    role: Role,
    expires_at: datetime | None = None,
) -> NewKey:
    """Store a key of a member of the workspace, made with the actor's key. Checks nothing."""
    # a lesser key, and what is made with it, stays one when the user's own role is lowered
    personal = workspace_id == user.workspace_id
    unlimited = personal and role is user.role and actor.limit is Role.ADMIN
    prefix, token = new_token(KEY_SCHEME)
    key_id = accounts.add_key(
        connection,
        user_id=user.id,
        workspace_id=workspace_id,
        name=name,
        prefix=prefix,
        digest=key_hash(secret_key, token),
        role=role,
        unlimited=unlimited,
        expires_at=expires_at,
        parent_id=actor.key_id,
    )
    details = {
        "user_id": str(user.id),
        "workspace_id": str(workspace_id),
        "role": role.value,
        "prefix": prefix,
        "expires_at": expires_at and expires_at.isoformat(),
        "made_with": actor.key_id and str(actor.key_id),
    }
    audit.record(
        connection,
        actor,
        "api_key.create",
        [key_id],
        details=details,
        workspace_id=workspace_id,
    )
    logger.info("api_key.created", key_id=key_id, role=role.value)
    made = accounts.key(connection, key_id, owner=user.id, workspace=workspace_id)
    return NewKey(present(made, "API key", key_id), token)
