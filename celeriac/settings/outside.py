"""Settings of what Celeriac itself sends to the outside."""

from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from celeriac.kit.addresses import OutboundGuard
from celeriac.settings.readers import Names, checked_url


class OutboundSettings(BaseSettings):
    """Where requests may go whose addresses users or agents name; `CELERIAC_OUTBOUND_…`."""

    model_config = SettingsConfigDict(env_prefix="CELERIAC_OUTBOUND_", frozen=True, extra="ignore")

    allow_private: bool = False
    """Lets them reach everything, this machine and its network among it."""
    allow_hosts: Names = ()
    """Names, addresses and networks (CIDR) that they may reach although they are not on the public
    internet; separated by commas."""

    @field_validator("allow_hosts")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        OutboundGuard.of(allow_private=False, allowed=value)
        return value

    def guard(self) -> OutboundGuard:
        """Return the guard of outbound requests."""
        return OutboundGuard.of(allow_private=self.allow_private, allowed=self.allow_hosts)


class ApprovalSettings(BaseSettings):
    """How people hear of questions; `CELERIAC_APPROVALS_…`."""

    model_config = SettingsConfigDict(
        env_prefix="CELERIAC_APPROVALS_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    webhook: str | None = None
    """Address that is told of each question, with a link that answers it; `http://` only inside."""
    webhook_secret: SecretStr | None = Field(default=None, min_length=16)
    """Keys the signature of what is sent there."""

    @field_validator("webhook")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        return checked_url(value, ("https", "http"))

    @model_validator(mode="after")
    def _is_signed(self) -> Self:
        if self.webhook is not None and self.webhook_secret is None:
            raise ValueError(
                "CELERIAC_APPROVALS_WEBHOOK needs CELERIAC_APPROVALS_WEBHOOK_SECRET, at least 16 "
                "characters that its receiver checks the signature with"
            )
        return self
