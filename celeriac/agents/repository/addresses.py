"""Where a fetch goes: an address that is checked, and to which git or ssh is bound.

Names are resolved here, once: the fetch uses the address that was checked, also where the name has
another one a moment later.
"""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpcore2

from celeriac.domain.errors import RepositoryRefusedError, RepositoryUnavailableError
from celeriac.kit.destinations import Address
from celeriac.kit.outbound import OutboundGuard, resolve

_PORTS = {"https": 443, "ssh": 22}
_RESOLVE_SECONDS = 10.0
_IPV6 = 6
_SLOW = {"http.lowSpeedLimit": "1000", "http.lowSpeedTime": "60"}

_SSH = (
    *("ssh", "-F", "/dev/null", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"),
    *("-o", "ProxyCommand=none", "-o", "PermitLocalCommand=no", "-o", "ForwardAgent=no"),
    *("-o", "ConnectTimeout=20", "-o", "ServerAliveInterval=20"),
)


@dataclass(frozen=True, slots=True)
class Pinned:
    """The protocol of a URL, and the settings that bind a fetch to its address."""

    protocol: str
    settings: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    server: str = ""
    """Scheme, host and port as the URL has them."""


async def pinned(url: str, guard: OutboundGuard) -> Pinned:
    """Return how a repository is fetched.

    Raises RepositoryRefusedError for a host that `guard` does not allow, and
    RepositoryUnavailableError for one that can't be resolved.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Pinned("file")
    host = parts.hostname or ""
    port = parts.port or _PORTS[parts.scheme]
    found = await _resolved(host, port)
    allowed = [each for each in found if guard.allows(host, each)]
    if not allowed:
        raise RepositoryRefusedError(
            f"The host of the repository {url} is not on the public internet. An administrator "
            "can allow it with CELERIAC_OUTBOUND_ALLOW_HOSTS, for the workers.",
            field="git",
        )
    if parts.scheme == "ssh":
        command = (*_SSH, "-o", f"HostName={allowed[0]}", "-o", f"HostKeyAlias={host}")
        return Pinned("ssh", environment={"GIT_SSH_COMMAND": " ".join(command)})
    authorities = os.environ.get("SSL_CERT_FILE")
    texts = (f"[{each}]" if each.version == _IPV6 else str(each) for each in allowed)
    return Pinned(
        "https",
        server=f"https://{parts.netloc}",
        settings={
            **_SLOW,
            **({"http.sslCAInfo": authorities} if authorities else {}),
            "http.proxy": "",
            "http.curloptResolve": f"{host}:{port}:{','.join(texts)}",
        },
    )


async def _resolved(host: str, port: int) -> list[Address]:
    try:
        async with asyncio.timeout(_RESOLVE_SECONDS):
            return await resolve(host, port)
    except httpcore2.ConnectError as error:
        raise RepositoryUnavailableError(str(error)) from error
    except TimeoutError:
        raise RepositoryUnavailableError(
            f"{host} was not resolved within {_RESOLVE_SECONDS:g} s."
        ) from None
