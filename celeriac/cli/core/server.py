"""The API that a command uses, this machine's settings, and ports to listen on.

The API is named by options, by the environment, or by the stack that runs in the home.
"""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from celeriac.cli.core.output import CommandError, ExitCode, UsageProblemError
from celeriac.embedded.home import Home, reserve_port

if TYPE_CHECKING:
    from celeriac.client.server import Server
    from celeriac.db.engine import Database
    from celeriac.settings import Settings

ADMIN_KEY_NAME = "admin_api_key"
"""The name of the home's secret with the administrator's API key, which `celeriac up` writes."""


def key_file(home: Home) -> Path:
    """Return the path of the administrator's API key in a home."""
    return home.secrets / ADMIN_KEY_NAME


def find_server(home: Path | None, api_url: str | None, api_key: str | None) -> "Server":
    """Return the API and its key, as the client finds them. Raises CommandError."""
    from celeriac.client import server

    with _explained():
        return server.find_server(home, api_url, api_key)


def find_address(home: Path | None, api_url: str | None) -> str:
    """Return the address of the API. Raises CommandError."""
    from celeriac.client import server

    with _explained():
        return server.find_address(home, api_url)


@contextmanager
def _explained() -> Iterator[None]:
    from celeriac.client import ClientError

    try:
        yield
    except ClientError as error:
        exit_code = ExitCode.DENIED if error.code == "no_api_key" else ExitCode.UNAVAILABLE
        raise CommandError(error.message, exit_code=exit_code, problem=error.code) from error


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
    from celeriac.wiring.core import pooler

    database = Database(
        settings.require_database(),
        connections=1,
        application="celeriac-cli",
        pooler=pooler(settings),
    )
    try:
        yield database
    finally:
        database.close()


def choose_port(host: str, port: int) -> int:
    """Return `port` if the API can listen on it, or a free port for 0.

    It is chosen once, so that a restarted API keeps its address. Raises CommandError if the port is
    in use or not allowed.
    """
    if port == 0:
        return reserve_port()
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except socket.gaierror as error:
        raise UsageProblemError(f"--host {host}: {error.strerror}.") from error
    except OSError as error:
        raise _refused(host, port, error) from error
    return port


def _refused(host: str, port: int, error: OSError) -> CommandError:
    if error.errno == errno.EADDRINUSE:
        return CommandError(
            f"Port {port} on {host} is in use by another program.",
            cure=f"Choose another: --port {port + 1}, or --port 0 for any that is free.",
        )
    if error.errno == errno.EACCES:
        return CommandError(
            f"Port {port} is reserved for root.", cure="Choose one above 1023 with --port."
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return UsageProblemError(
            f"{host} is not an address of this machine.", cure="Correct or omit --host."
        )
    return CommandError(f"Can't listen on {host}, port {port}: {error.strerror}.")
