"""Whether providers of models answer: one request to each, without a key."""

import asyncio
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import httpx2

from celeriac.domain.doctor import ProviderAnswer
from celeriac.kit.outbound import OutboundGuard, guarded_client

_SECONDS = 5.0
_MOST_BYTES = 1_000_000
_MOST = 20


def ask_all(providers: Mapping[str, str]) -> Sequence[ProviderAnswer]:
    """Ask up to 20 providers, by name with their base URLs, all at once, within five seconds.

    Any answer of HTTP is one: without a key it is often 401. The hosts of their URLs, which an
    operator has set, may be private; redirects are not followed, so nothing else is reached.
    """
    return asyncio.run(_ask_all(dict(list(providers.items())[:_MOST])))


async def _ask_all(providers: Mapping[str, str]) -> list[ProviderAnswer]:
    hosts = [urlsplit(url).hostname or "" for url in providers.values()]
    guard = OutboundGuard.of(allow_private=False, allowed=[f for f in hosts if "/" not in f])
    async with guarded_client(guard, timeout_seconds=_SECONDS, max_bytes=_MOST_BYTES) as client:
        return await asyncio.gather(*(_ask(client, name, url) for name, url in providers.items()))


async def _ask(client: httpx2.AsyncClient, name: str, url: str) -> ProviderAnswer:
    host = urlsplit(url).hostname or "?"
    try:
        async with (
            asyncio.timeout(_SECONDS),
            client.stream("GET", f"{url.rstrip('/')}/models") as answer,
        ):
            return ProviderAnswer(name, host, answer.status_code, None)
    except TimeoutError:
        return ProviderAnswer(name, host, None, f"nothing within {_SECONDS:g} s")
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        return ProviderAnswer(name, host, None, str(error) or type(error).__name__)
