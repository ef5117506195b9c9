"""Model providers: which OpenAI-compatible endpoints there are, and which of them a model names."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Self
from urllib.parse import urlsplit

from celeriac.domain.errors import AgentMisconfiguredError, ConfigurationError

LOCAL = "local"
"""The provider that is the embedded model server; its tokens cost nothing."""

OPENAI = "openai"

_OPENAI_HOST = "api.openai.com"
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One OpenAI-compatible endpoint. The key shows in no repr."""

    name: str
    base_url: str
    api_key: str | None = field(default=None, repr=False)
    missing: str | None = None
    """What must be set up before it can be used, as a sentence; None where it is ready."""

    @property
    def on_loopback(self) -> bool:
        """Whether it runs on this machine."""
        return urlsplit(self.base_url).hostname in _LOOPBACK


@dataclass(frozen=True, slots=True)
class Choice:
    """A model of a provider, as an agent names it: `provider/model`."""

    provider: Provider
    model: str

    def __str__(self) -> str:
        return f"{self.provider.name}/{self.model}"


class Providers:
    """The configured providers by name."""

    def __init__(self, providers: Iterable[Provider]) -> None:
        """Know `providers`; where two have the same name, the later one counts.

        Raises ConfigurationError naming a provider whose base URL is no HTTP address.
        """
        self._by_name: Mapping[str, Provider] = MappingProxyType(
            {provider.name: provider for provider in providers}
        )
        for provider in self._by_name.values():
            _check_address(provider)

    @classmethod
    def configured(
        cls,
        *,
        openai_base_url: str,
        openai_api_key: str | None,
        local_model_url: str | None,
        others: Mapping[str, tuple[str, str]],
    ) -> Self:
        """Return the providers of plain settings; `others` maps names to base URL and API key.

        `openai` and `local` are always known, so that an agent that names them learns what is
        missing. One of `others` may take their place.
        """
        return cls(
            [
                _openai(openai_base_url, openai_api_key),
                _local(local_model_url),
                *(
                    Provider(name=name, base_url=base_url, api_key=api_key)
                    for name, (base_url, api_key) in others.items()
                ),
            ]
        )

    @property
    def keys(self) -> list[str]:
        """All API keys, to be kept out of what is written down."""
        return [provider.api_key for provider in self._by_name.values() if provider.api_key]

    def choose(self, name: str, *, reached: bool = True) -> Choice:
        """Return what `provider/model` names; the model's own name may hold slashes.

        A provider that isn't to be `reached` needs no address and no key. Raises
        AgentMisconfiguredError that says what is wrong with the agent's field `model`.
        """
        provider_name, _, model = name.partition("/")
        if not provider_name or not model:
            raise AgentMisconfiguredError(
                f"The agent's model is {name!r}; it must be provider/model, such as "
                f"local/smollm2. Known providers: {self._names()}.",
                field="model",
            )
        provider = self._by_name.get(provider_name)
        if not reached:
            return Choice(provider or Provider(name=provider_name, base_url=""), model)
        if provider is None:
            raise AgentMisconfiguredError(
                f"The agent's model {name!r} names the provider {provider_name!r}, which isn't "
                f"configured. Known providers: {self._names()}. CELERIAC_PROVIDERS adds more.",
                field="model",
            )
        if provider.missing is not None:
            raise AgentMisconfiguredError(
                f"The agent's model {name!r} can't be reached: {provider.missing}", field="model"
            )
        return Choice(provider, model)

    def _names(self) -> str:
        return ", ".join(sorted(self._by_name))


def _openai(base_url: str, api_key: str | None) -> Provider:
    needs_key = api_key is None and urlsplit(base_url).hostname == _OPENAI_HOST
    return Provider(
        name=OPENAI,
        base_url=base_url,
        api_key=api_key,
        missing=(
            "OPENAI_API_KEY is not set. Set it for the workers and restart them."
            if needs_key
            else None
        ),
    )


def _local(base_url: str | None) -> Provider:
    return Provider(
        name=LOCAL,
        base_url=base_url or "",
        missing=(
            None
            if base_url
            else "there is no local model server. Start one with `celeriac up` (it needs "
            "`pip install 'celeriac[local-model]'` and `celeriac models install`), or set "
            "CELERIAC_LOCAL_MODEL_URL to the base URL of an OpenAI-compatible server."
        ),
    )


def _check_address(provider: Provider) -> None:
    if provider.missing is not None:
        return
    parts = urlsplit(provider.base_url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigurationError(
            f"The base URL of the model provider {provider.name!r} is {provider.base_url!r}; it "
            "must be an address like https://host/v1."
        )
