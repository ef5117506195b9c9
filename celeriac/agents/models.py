"""Model providers by name, and prices of models."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from celeriac.domain.errors import AgentMisconfiguredError, ConfigurationError
from celeriac.kit.json_types import loads
from celeriac.kit.validation import first_fault

LOCAL = "local"
"""The provider that is the embedded model server; its tokens cost nothing."""

OPENAI = "openai"

OPENAI_HOST = "api.openai.com"
_NOWHERE = "http://provider.invalid"
"""The address of a provider that has none, and is not reached."""

ANTHROPIC = "anthropic"
"""The provider of Anthropic's Messages API, in usage, prices and limits."""

_ANTHROPIC_HOST = "api.anthropic.com"
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

_NO_KEY = "OPENAI_API_KEY is not set. Set it for the workers and restart them."
_NO_LOCAL_SERVER = (
    "there is no local model server. Start one with `celeriac up` (it needs `pip install "
    "'celeriac[local-model]'` and `celeriac models install`), or set CELERIAC_LOCAL_MODEL_URL to "
    "the base URL of an OpenAI-compatible server."
)


def _is_http(address: str) -> bool:
    parts = urlsplit(address)
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One OpenAI-compatible endpoint; its repr omits the key."""

    name: str
    base_url: str
    api_key: str | None = field(default=None, repr=False)
    missing: str | None = None
    """A sentence that says what must be set up first; None if it is ready."""

    @property
    def on_loopback(self) -> bool:
        """Whether it runs on this machine."""
        return urlsplit(self.base_url).hostname in _LOOPBACK


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model of a provider, as an agent names it: `provider/model`."""

    provider: Provider
    model: str

    def __str__(self) -> str:
        return f"{self.provider.name}/{self.model}"


@dataclass(frozen=True, slots=True)
class AnthropicEndpoint:
    """Anthropic's Messages API, or a gateway that has its API: the address and the key."""

    base_url: str
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Raise ConfigurationError for an address that is not one of HTTP."""
        if not _is_http(self.base_url):
            raise ConfigurationError(
                f"ANTHROPIC_BASE_URL is {self.base_url!r}; it must be an address like "
                "https://api.anthropic.com."
            )

    @property
    def provider(self) -> Provider:
        """The endpoint as a provider, under whose name its calls are charged."""
        return Provider(name=ANTHROPIC, base_url=self.base_url, api_key=self.api_key)

    @property
    def ready(self) -> bool:
        """Whether it has the key that it needs."""
        return self.api_key is not None or urlsplit(self.base_url).hostname != _ANTHROPIC_HOST

    def check(self) -> None:
        """Raise AgentMisconfiguredError where a key is needed and there is none."""
        if not self.ready:
            raise AgentMisconfiguredError(
                "ANTHROPIC_API_KEY is not set. Set it for the workers and restart them.",
                field="runner",
            )


class Providers:
    """The configured providers by name."""

    def __init__(self, providers: Iterable[Provider]) -> None:
        """Hold `providers`; of two with the same name the later one counts.

        Raises ConfigurationError naming a provider whose base URL is no HTTP address.
        """
        self._by_name: Mapping[str, Provider] = MappingProxyType(
            {provider.name: provider for provider in providers}
        )
        for provider in self.ready:
            if not _is_http(provider.base_url):
                raise ConfigurationError(
                    f"The base URL of the model provider {provider.name!r} is "
                    f"{provider.base_url!r}; it must be an address like https://host/v1."
                )

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

        `openai` and `local` are always known, so that errors say what is missing. One of `others`
        may replace them.
        """
        needs_key = openai_api_key is None and urlsplit(openai_base_url).hostname == OPENAI_HOST
        known = (
            Provider(
                name=OPENAI,
                base_url=openai_base_url,
                api_key=openai_api_key,
                missing=_NO_KEY if needs_key else None,
            ),
            Provider(
                name=LOCAL,
                base_url=local_model_url or "",
                missing=None if local_model_url else _NO_LOCAL_SERVER,
            ),
        )
        added = (
            Provider(name=name, base_url=base_url, api_key=api_key)
            for name, (base_url, api_key) in others.items()
        )
        return cls((*known, *added))

    @property
    def keys(self) -> list[str]:
        """All API keys, which must not be stored."""
        return [provider.api_key for provider in self._by_name.values() if provider.api_key]

    @property
    def ready(self) -> list[Provider]:
        """The providers that can be used."""
        return [each for each in self._by_name.values() if each.missing is None]

    def choose(self, name: str, *, reached: bool = True) -> ModelRef:
        """Return what `provider/model` names; the model's own name may hold slashes.

        A provider that isn't to be `reached` needs no address and no key. Raises
        AgentMisconfiguredError for the agent's field `model`.
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
            provider = provider or Provider(name=provider_name, base_url="")
            return ModelRef(replace(provider, base_url=provider.base_url or _NOWHERE), model)
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
        return ModelRef(provider, model)

    def _names(self) -> str:
        return ", ".join(sorted(self._by_name))


Dollars = Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]

_PER = Decimal(1_000_000)
_FREE = Decimal(0)


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a call used, in tokens; `cached` and `cache_written` are part of `input`."""

    input: int
    output: int
    cached: int = 0
    cache_written: int = 0
    """Put into the provider's cache by this call; some charge more for them."""


class Price(BaseModel):
    """US dollars per million tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: Dollars
    output: Dollars
    cached_input: Dollars | None = None
    """For input tokens that the provider had cached; None: they cost what others do."""
    cache_write: Dollars | None = None
    """For input tokens that the provider puts into its cache; None: they cost what others do."""

    def of(self, tokens: Tokens) -> Decimal:
        """Return what `tokens` cost, in US dollars."""
        cached_price = self.input if self.cached_input is None else self.cached_input
        write_price = self.input if self.cache_write is None else self.cache_write
        return (
            self.input * (tokens.input - tokens.cached - tokens.cache_written)
            + cached_price * tokens.cached
            + write_price * tokens.cache_written
            + self.output * tokens.output
        ) / _PER


class _PriceFile(BaseModel):
    """The user's prices, under a version of the user's own choice."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Annotated[str, Field(min_length=1, max_length=100)]
    prices: dict[str, Price]


_PRICE_LIST: TypeAdapter[dict[str, Price]] = TypeAdapter(dict[str, Price])


class Prices:
    """A price table; safe to share.

    A name that ends with `*` is that of all models whose names begin so; a whole name comes before
    it, and the longer beginning before the shorter.
    """

    def __init__(self, own: Mapping[str, Price] | None = None, *, version: str = "") -> None:
        """Prefer `own`, by `provider/model`, to what is published."""
        self.own = own or {}
        self.version = version
        """The version that the user's file names; empty where there is none."""
        beginnings = [name[:-1] for name in self.own if name.endswith("*")]
        self._beginnings = sorted(beginnings, key=len, reverse=True)

    @classmethod
    def load(cls, file: Path | None) -> Self:
        """Read the user's prices; None means that there are none.

        The file is JSON: `{"version": "2026-11", "prices": {"vllm/qwen3-8b": {"input": 0.05,
        "cached_input": 0.01, "output": 0.2}}}`, in US dollars per million tokens; the prices alone
        will do. Raises ConfigurationError naming the fault.
        """
        if file is None:
            return cls()
        try:
            text = file.read_bytes()
            if not _is_versioned(text):
                return cls(_PRICE_LIST.validate_json(text))
            whole = _PriceFile.model_validate_json(text)
            return cls(whole.prices, version=whole.version)
        except OSError as error:
            reason = error.strerror or str(error)
        except ValidationError as error:
            reason = ": ".join(filter(None, first_fault(error)))
        raise ConfigurationError(
            f"CELERIAC_PRICES_FILE: the prices in {file} can't be read: {reason}."
        )

    def own_price(self, name: str) -> Price | None:
        """Return the user's price of a model, `provider/model`, if there is one."""
        if name in self.own:
            return self.own[name]
        found = next((each for each in self._beginnings if name.startswith(each)), None)
        return None if found is None else self.own[f"{found}*"]

    def warm(self) -> None:
        """Load the published table, which takes a quarter of a second."""
        from genai_prices.data_snapshot import get_snapshot

        get_snapshot()

    def cost(self, choice: ModelRef, tokens: Tokens) -> Decimal | None:
        """Return what a call cost in US dollars; None where no price is known."""
        own = self.own_price(str(choice))
        if own is not None:
            return own.of(tokens)
        if choice.provider.name == LOCAL:
            return _FREE
        return _published(choice, tokens)


def _is_versioned(text: bytes) -> bool:
    try:
        value = loads(text)
    except ValueError:
        return False  # the caller reports the fault
    return isinstance(value, dict) and not {"version", "prices"}.isdisjoint(value)


def price_by_name(
    providers: Providers, prices: Prices
) -> Callable[[str, str, Tokens], Decimal | None]:
    """Return a function that computes the cost of a call from the names of its provider and model.

    The provider need not be configured: the user's price file may have it.
    """

    def price(provider: str, model: str, tokens: Tokens) -> Decimal | None:
        if not provider or not model:
            return None
        return prices.cost(providers.choose(f"{provider}/{model}", reached=False), tokens)

    return price


def _published(choice: ModelRef, tokens: Tokens) -> Decimal | None:
    from genai_prices import Usage, calc_price

    usage = Usage(
        input_tokens=tokens.input,
        cache_read_tokens=tokens.cached,
        cache_write_tokens=tokens.cache_written,
        output_tokens=tokens.output,
    )
    try:
        # By address, not by our name for the provider: a gateway may have other prices.
        found = calc_price(usage, choice.model, provider_api_url=choice.provider.base_url)
    except LookupError:
        return None
    return found.total_price
