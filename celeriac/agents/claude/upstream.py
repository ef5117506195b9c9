"""Anthropic's Messages API, or a gateway that speaks it: where it is, and its key."""

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from celeriac.agents.providers import Choice, Provider
from celeriac.domain.errors import AgentMisconfiguredError, ConfigurationError

ANTHROPIC = "anthropic"
"""The provider's name in usage, prices and limits."""

_OWN_HOST = "api.anthropic.com"


@dataclass(frozen=True, slots=True)
class Upstream:
    """The Messages API: where it is, and its key."""

    base_url: str
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse an address that can't be one."""
        parts = urlsplit(self.base_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigurationError(
                f"ANTHROPIC_BASE_URL is {self.base_url!r}; it must be an address like "
                "https://api.anthropic.com."
            )

    def check(self) -> None:
        """Raises AgentMisconfiguredError where a key is needed and there is none."""
        if self.api_key is None and urlsplit(self.base_url).hostname == _OWN_HOST:
            raise AgentMisconfiguredError(
                "ANTHROPIC_API_KEY is not set. Set it for the workers and restart them.",
                field="runner",
            )

    def choice(self, model: str) -> Choice:
        """Return a model of it, as prices know models."""
        return Choice(Provider(name=ANTHROPIC, base_url=self.base_url), model)

    def without_key(self, text: str) -> str:
        """Return `text` without the key, which some servers repeat."""
        return text.replace(self.api_key, "***") if self.api_key else text
