"""Which server a command talks to: flags, then the environment, then the home's running stack."""

from dataclasses import dataclass, field
from pathlib import Path

from celeriac.cli.core.output import CommandError, ExitCode
from celeriac.embedded.endpoints import find_running_stack
from celeriac.embedded.home import Home

ADMIN_KEY_NAME = "admin_api_key"
"""The home's secret that holds the administrator's API key; `celeriac up` writes it."""


@dataclass(frozen=True, slots=True)
class Server:
    """An API and the key to it."""

    url: str
    api_key: str = field(repr=False)


def key_file(home: Home) -> Path:
    """Return where a home keeps the administrator's API key."""
    return home.secrets / ADMIN_KEY_NAME


def find_address(home: Path | None, api_url: str | None) -> str:
    """Return the address of the server to ask; raises CommandError where none is known."""
    place = Home.at(home)
    return _address(place, api_url, _own_address(place))


def find_server(home: Path | None, api_url: str | None, api_key: str | None) -> Server:
    """Return the server to ask.

    The home's own key goes to the home's own server only. Raises CommandError where no server, or
    no key, is known.
    """
    place = Home.at(home)
    own_url = _own_address(place)
    url = _address(place, api_url, own_url)
    if api_key is None and url.rstrip("/") == (own_url or "").rstrip("/"):
        api_key = _own_key(place)
    if api_key is None:
        raise CommandError(
            f"No API key for {url} is known.",
            cure="Give one with --api-key or CELERIAC_API_KEY.",
            exit_code=ExitCode.DENIED,
            problem="no_api_key",
        )
    return Server(url, api_key)


def _own_address(home: Home) -> str | None:
    stack = find_running_stack(home)
    return stack.api_url if stack else None


def _address(home: Home, api_url: str | None, own_url: str | None) -> str:
    url = api_url or own_url
    if url is None:
        raise CommandError(
            f"No server is known: no stack runs in {home.root}, and CELERIAC_API_URL is not set.",
            cure="Start one with `celeriac up`, or name one with --api-url or CELERIAC_API_URL.",
            exit_code=ExitCode.UNAVAILABLE,
            problem="no_server",
        )
    return url


def has_own_key(home: Path | None) -> bool:
    """Whether the stack of this home runs and its key can be read."""
    place = Home.at(home)
    return _own_address(place) is not None and _own_key(place) is not None


def _own_key(home: Home) -> str | None:
    try:
        return key_file(home).read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CommandError(
            f"{key_file(home)} can't be read: {error.strerror}.", exit_code=ExitCode.DENIED
        ) from error
