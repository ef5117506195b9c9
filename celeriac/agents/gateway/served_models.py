"""Which models the local server has."""

from collections.abc import Mapping
from typing import Any

import httpx2

from celeriac.agents.models import LOCAL, ModelRef, Provider
from celeriac.domain.errors import AgentMisconfiguredError

_SECONDS = 5.0
_DEFAULT_TAG = ":latest"
_SHOWN = 10


class ServedModels:
    """Checks that the local server has a model; its list is read again for each unknown name."""

    def __init__(self) -> None:
        self._served: dict[str, frozenset[str]] = {}

    async def check(self, choice: ModelRef) -> None:
        """Raise AgentMisconfiguredError for a model that the local server does not have.

        Other providers refuse unknown names themselves. A server without a list passes.
        """
        address = choice.provider.base_url
        if choice.provider.name != LOCAL or choice.model in self._served.get(address, ()):
            return
        names = await _asked(choice.provider)
        if not names:
            return
        self._served[address] = names
        if choice.model not in names:
            known = ", ".join(f"{LOCAL}/{name}" for name in sorted(names)[:_SHOWN])
            raise AgentMisconfiguredError(
                f"The agent's model is {str(choice)!r}, which the local model server doesn't "
                f"serve. It serves {known}.",
                field="model",
            )


async def _asked(provider: Provider) -> frozenset[str]:
    """Return the names that a server lists; none where it can't be reached."""
    headers = {"authorization": f"Bearer {provider.api_key}"} if provider.api_key else {}
    try:
        async with httpx2.AsyncClient(
            timeout=_SECONDS, trust_env=not provider.on_loopback
        ) as client:
            response = await client.get(f"{provider.base_url.rstrip('/')}/models", headers=headers)
            return model_names(response.json()) if response.is_success else frozenset()
    except (httpx2.HTTPError, ValueError):
        return frozenset()


def model_names(body: Any) -> frozenset[str]:
    """Return the ids of a list of models, and their aliases."""
    listed = body.get("data") if isinstance(body, Mapping) else None
    names: set[str] = set()
    for each in listed if isinstance(listed, list) else ():
        if isinstance(each, Mapping) and isinstance(each.get("id"), str):
            names |= {each["id"], each["id"].removesuffix(_DEFAULT_TAG)}
            aliases = each.get("aliases")
            if isinstance(aliases, list):
                names.update(alias for alias in aliases if isinstance(alias, str))
    return frozenset(names)
