"""Reads the secrets of an agent, and of its task's repository, before the agent starts."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import structlog

from celeriac.db import audit
from celeriac.db import secrets as rows
from celeriac.db.audit import Program
from celeriac.db.engine import Database
from celeriac.domain.agents import SecretGrant
from celeriac.domain.errors import (
    AgentMisconfiguredError,
    ConfigurationError,
    SecretUnavailableError,
    WorkerMisconfiguredError,
)
from celeriac.domain.executions.events import EventType, NewEvent
from celeriac.domain.executions.model import Claim, ExecutionSpec
from celeriac.domain.repositories import RepositoryAccess
from celeriac.domain.secrets.cipher import SecretCipher
from celeriac.domain.secrets.minted import GithubApp, Minted
from celeriac.domain.secrets.model import HostCredential, header_value, value_fault
from celeriac.kit.json_types import JsonObject, storable
from celeriac.logs.masks import Masker

logger = structlog.get_logger(__name__)

_FIELD = "secrets"
_PROGRAM = "worker"
_BASIC = "Basic "


@dataclass(frozen=True, slots=True)
class RepositoryGrant:
    """A secret for the server of a repository, as the password of `user`."""

    name: str
    url: str
    user: str


@dataclass(frozen=True, slots=True)
class Given:
    """A secret that an attempt was given."""

    grant: SecretGrant | RepositoryGrant
    secret_id: UUID
    version: int
    value: str = field(repr=False)
    expires_at: datetime | None = None
    """When a token that was made for the attempt ends."""

    @property
    def header(self) -> str:
        """The value of the header that is sent to the grant's host."""
        if isinstance(self.grant, RepositoryGrant):
            return header_value("", self.grant.user, self.value)
        return header_value(self.grant.template, self.grant.user, self.value)

    @property
    def sent(self) -> tuple[str, ...]:
        """The value of that header, and what a server may say of it: what follows `Basic`."""
        return self.header, self.header.removeprefix(_BASIC)

    @property
    def place(self) -> JsonObject:
        """Where the value goes: a variable, a host or a repository; and its end, if it has one."""
        place: JsonObject
        if isinstance(self.grant, RepositoryGrant):
            place = {"repository": self.grant.url}
        elif self.grant.host is not None:
            place = {"host": self.grant.host}
        else:
            place = {"variable": str(self.grant.variable)}
        return place if self.expires_at is None else {
            **place, "expires_at": self.expires_at.isoformat()
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class HandedOut:
    """What an attempt was given."""

    given: tuple[Given, ...]

    @property
    def variables(self) -> Mapping[str, str]:
        """The values by the names of their environment variables."""
        return {
            each.grant.variable: each.value
            for each in self.given
            if isinstance(each.grant, SecretGrant) and each.grant.variable is not None
        }

    @property
    def credentials(self) -> tuple[HostCredential, ...]:
        """The headers that the attempt's proxy adds."""
        return tuple(
            HostCredential(*each.grant.endpoint, each.grant.header, each.header)
            for each in self.given
            if isinstance(each.grant, SecretGrant) and each.grant.host is not None
        )

    @property
    def repository(self) -> RepositoryAccess | None:
        """The credentials of the task's repository, if it names a secret."""
        for each in self.given:
            if isinstance(each.grant, RepositoryGrant):
                return RepositoryAccess(each.grant.user, each.value, each.secret_id, each.version)
        return None

    def events(self) -> list[NewEvent]:
        """Return an event for each secret, without its value."""
        return [
            NewEvent(
                EventType.SECRET_USED,
                storable(
                    {
                        "secret": each.grant.name,
                        "version": each.version,
                        **each.place,
                    }
                ),
                time.monotonic(),
            )
            for each in self.given
        ]

    def masker(self) -> Masker:
        """Return what masks the values."""
        return Masker(value for each in self.given for value in (each.value, *each.sent))


def _grants(spec: ExecutionSpec) -> tuple[SecretGrant | RepositoryGrant, ...]:
    repository = spec.task.repository
    if repository is None or repository.secret is None:
        return spec.agent.secrets
    return (
        *spec.agent.secrets,
        RepositoryGrant(repository.secret, repository.git, repository.user),
    )


class HandOut:
    """Hands secrets out to attempts of this process. Safe to call from many threads at once."""

    def __init__(
        self,
        database: Database,
        cipher: Callable[[], SecretCipher],
        read_source: Callable[[str], str],
        mint: Callable[[str, GithubApp], Minted],
    ) -> None:
        """`read_source` reads a source of this worker by its name; `mint` makes tokens of an app.

        It and `cipher`, which is made on first use, raise ConfigurationError for what this worker
        lacks; `read_source` and `mint` raise SecretUnavailableError for what can't be had now.
        """
        self._database = database
        self._make_cipher = cipher
        self._cipher: SecretCipher | None = None
        self._read_source = read_source
        self._mint = mint

    def __call__(self, claim: Claim, spec: ExecutionSpec) -> HandedOut:
        """Return the values of the attempt's secrets; the audit trail has an entry for each.

        Raises AgentMisconfiguredError for a secret that the workspace doesn't have,
        WorkerMisconfiguredError and SecretUnavailableError for one that can't be read, and
        DatabaseUnavailableError.
        """
        grants = _grants(spec)
        names = {each.name for each in grants}
        with self._database.autocommit() as connection:
            found = rows.named(connection, names, workspace=claim.workspace_id)
        missing = sorted(names - found.keys())
        if missing:
            raise AgentMisconfiguredError(
                f"The agent {spec.agent_name}, or the repository of its task, names the secret "
                f"{', '.join(map(repr, missing))}, which the workspace doesn't have (any more). "
                "Create it, or remove it from the agent or the task.",
                field=_FIELD,
            )
        values = {name: self._value(stored) for name, stored in found.items()}
        given = tuple(
            Given(each, secret.id, secret.version, *values[each.name])
            for each in grants
            for secret in (found[each.name].secret,)
        )
        for each in given:
            _check_header(each)
        self._record(claim, spec, given)
        return HandedOut(given)

    def _value(self, stored: rows.Sealed) -> tuple[str, datetime | None]:
        """Return the value for an attempt, and when it ends."""
        secret = stored.secret
        try:
            if stored.sealed is not None:
                if self._cipher is None:
                    self._cipher = self._make_cipher()
                value = self._cipher.decrypt(secret.id, secret.version, stored.sealed)
            else:
                value = self._read_source(str(secret.worker_source))
        except ConfigurationError as error:
            raise WorkerMisconfiguredError(
                f"The secret {secret.name!r} can't be read on this worker: {error.message}",
                field=_FIELD,
            ) from error
        ends = None
        if secret.github_app is not None:
            minted = self._mint(value, GithubApp.model_validate(secret.github_app))
            value, ends = minted.token, minted.expires_at
        fault = value_fault(value)
        if fault is not None:  # a source's; stored ones were checked
            raise SecretUnavailableError(
                f"The value of the secret {secret.name!r} can't be used: {fault}.",
                secret=secret.name,
            )
        return value, ends

    def _record(
        self,
        claim: Claim,
        spec: ExecutionSpec,
        given: tuple[Given, ...],
    ) -> None:
        by = Program(_PROGRAM, claim.request_id, claim.workspace_id)
        with self._database.transaction() as connection:
            for each in given:
                details = {
                    "name": each.grant.name,
                    "version": each.version,
                    **each.place,
                    "agent": spec.agent_name,
                    "execution_id": str(claim.lease.execution_id),
                    "attempt": claim.lease.attempt,
                }
                audit.record(connection, by, "secret.use", [each.secret_id], details=details)
        logger.info("secret.used", names=[each.grant.name for each in given])


def _check_header(given: Given) -> None:
    if isinstance(given.grant, RepositoryGrant):
        if not given.value.isprintable():
            raise AgentMisconfiguredError(
                f"The value of the secret {given.grant.name!r} can't be the password for "
                f"{given.grant.url}: it has line ends or control characters.",
                field="repository.secret",
            )
        return
    header = given.header
    if given.grant.host is not None and not (header.isascii() and header.isprintable()):
        raise AgentMisconfiguredError(
            f"The value of the secret {given.grant.name!r} can't be sent in the header "
            f"{given.grant.header}: it has line ends, or characters that are not ASCII.",
            field=_FIELD,
        )
