"""The address that the API listens on."""

import errno
import socket

from celeriac.cli.exits import CommandError, UsageProblemError
from celeriac.embedded.ports import reserve_port

_EVERYWHERE = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - compared with, not bound


def choose_port(host: str, port: int) -> int:
    """Return `port` if the API can listen on it, or one that is free for 0.

    The choice is made once, so that a restarted API keeps its address. Raises CommandError naming
    the port and the cure where it is taken or not ours to take.
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


def reachable_url(host: str, port: int) -> str:
    """Return the address under which this machine reaches an API that listens on `host`."""
    if host in _EVERYWHERE:
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _refused(host: str, port: int, error: OSError) -> CommandError:
    if error.errno == errno.EADDRINUSE:
        return CommandError(
            f"Port {port} on {host} is taken by another program.",
            cure=f"Choose another: --port {port + 1}, or --port 0 for any that is free.",
        )
    if error.errno == errno.EACCES:
        return CommandError(
            f"Port {port} may only be taken by root.", cure="Choose one above 1023 with --port."
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return UsageProblemError(
            f"{host} is no address of this machine.", cure="Correct --host, or leave it out."
        )
    return CommandError(f"Can't listen on {host}, port {port}: {error.strerror}.")
