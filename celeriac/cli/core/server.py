"""The API that a command uses, and this machine's settings.

The API is named by options, by the environment, or by the stack that runs in the home.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from celeriac.cli.core.output import CommandError, ExitCode
from celeriac.embedded.endpoints import find_running_stack
from celeriac.embedded.home import Home

if TYPE_CHECKING:
    from celeriac.db.engine import Database
    from celeriac.settings import Settings

ADMIN_KEY_NAME = "admin_api_key"
"""The name of the home's secret with the administrator's API key, which `celeriac up` writes."""


@dataclass(frozen=True, slots=True)
class Server:
    """An API and the key to it."""

    url: str
    api_key: str = field(repr=False)


def key_file(home: Home) -> Path:
    """Return the path of the administrator's API key in a home."""
    return home.secrets / ADMIN_KEY_NAME


def find_address(home: Path | None, api_url: str | None) -> str:
    """Return the address of the API; raises CommandError if none is known."""
    place = Home.at(home)
    return _address(place, api_url, _own_address(place))


def find_server(home: Path | None, api_url: str | None, api_key: str | None) -> Server:
    """Return the API and the key for it.

    The home's own key is used for the home's own server only. Raises CommandError if no server or
    no key is known.
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


def _own_key(home: Home) -> str | None:
    try:
        return key_file(home).read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CommandError(
            f"{key_file(home)} can't be read: {error.strerror}.", exit_code=ExitCode.DENIED
        ) from error


def load_own_settings(home: Path | None) -> "Settings":
    """Return the settings alone, without those of a stack that runs. Raises ConfigurationError."""
    from celeriac.settings import Settings

    return Settings.load(**({"home": home} if home else {}))


def read_settings(home: Path | None) -> "Settings":
    """Return the settings of programs in this home, and log warnings only.

    Raises ConfigurationError, HomeUnusableError.
    """
    from celeriac.logs import LogOptions, Service, configure
    from celeriac.wiring.core import load_settings

    configure(LogOptions(service=Service.CLI, level="WARNING"))
    return load_settings(home)


@contextmanager
def open_database(settings: "Settings") -> "Iterator[Database]":
    """Yield a database with a single connection. Raises ConfigurationError."""
    from celeriac.db.engine import Database

    database = Database(settings.require_database(), connections=1, application="celeriac-cli")
    try:
        yield database
    finally:
        database.close()
