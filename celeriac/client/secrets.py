"""Secrets of the workspace."""

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

from celeriac import wire
from celeriac.client.transport import Resource, given, path

_SECRETS = "secrets"


class Secrets(Resource):
    """`client.secrets`: secrets that agents can be given; their values are never returned."""

    def create(
        self,
        name: str,
        value: str | None = None,
        *,
        worker_source: str | None = None,
        github_app: Mapping[str, Any] | None = None,
        description: str = "",
    ) -> wire.Secret:
        """Create a secret with a value, or with `worker_source`, which workers read themselves.

        With `github_app` (`app_id`, `installation_id`, `repository`, `permissions`) the value is
        the app's private key, and attempts get tokens of it.
        For admins of the workspace; with `worker_source` for administrators.
        """
        body = given(
            name=name,
            value=value,
            worker_source=worker_source,
            github_app=None if github_app is None else dict(github_app),
            description=description,
        )
        return self._transport.post(wire.Secret, path(_SECRETS), body)

    def get(self, secret: str | UUID) -> wire.Secret:
        """Return a secret without its value, by its id or name."""
        return self._transport.get(wire.Secret, path(_SECRETS, secret))

    def list(self) -> Iterator[wire.Secret]:
        """Yield the secrets of the workspace without their values, the newest first."""
        return self._transport.pages(wire.Secret, path(_SECRETS))

    def change(
        self,
        secret: str | UUID,
        *,
        value: str | None = None,
        worker_source: str | None = None,
        description: str | None = None,
    ) -> wire.Secret:
        """Change what is given; attempts that start later get the new value."""
        body = given(value=value, worker_source=worker_source, description=description)
        return self._transport.patch(wire.Secret, path(_SECRETS, secret), body)

    def delete(self, secret: str | UUID) -> None:
        """Delete a secret; attempts of agents that name it fail from now on."""
        self._transport.send("DELETE", path(_SECRETS, secret))

    def reencrypt(self) -> int:
        """Encrypt all values with the first key; return how many had another one.

        For administrators, after `CELERIAC_ENCRYPTION_KEYS` got a new first key.
        """
        return self._transport.post(wire.Reencrypted, path("secret-encryption"), {}).reencrypted
