"""The search for the server: arguments, the environment, or the stack that runs in a home."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from celeriac.client.errors import ClientError
from celeriac.kit.processes import ProcessIdentity, still_running

_DIRECTORY = ".celeriac"
_STACK_FILE = "stack.json"
_KEY_FILE = Path("secrets", "admin_api_key")


@dataclass(frozen=True, slots=True)
class Server:
    """An API and the key to it."""

    url: str
    api_key: str = field(repr=False)


def find_server(
    home: Path | None = None, url: str | None = None, api_key: str | None = None
) -> Server:
    """Return the server: `url`, CELERIAC_API_URL, or the one that runs in the home.

    The key is `api_key` or CELERIAC_API_KEY. The home is `home`, CELERIAC_HOME, or `.celeriac` in
    the current directory; its key is used for its own server only. Raises ClientError: `no_server`
    or `no_api_key`.
    """
    root = _root(home)
    key = api_key or os.environ.get("CELERIAC_API_KEY")
    given = url or os.environ.get("CELERIAC_API_URL")
    if given and key:
        return Server(given, key)
    own_url = _running_api(root)
    address = _known(given or own_url, root)
    if not key and own_url and address.rstrip("/") == own_url.rstrip("/"):
        key = _own_key(root)
    if not key:
        raise ClientError(
            f"No API key for {address} is known. Set CELERIAC_API_KEY to one "
            "(`celeriac keys create`).",
            code="no_api_key",
        )
    return Server(address, key)


def find_address(home: Path | None = None, url: str | None = None) -> str:
    """Return the address alone, as `find_server` does. Raises ClientError: `no_server`."""
    root = _root(home)
    return _known(url or os.environ.get("CELERIAC_API_URL") or _running_api(root), root)


def has_own_key(home: Path | None) -> bool:
    """Return whether the stack of a home runs and its key can be read."""
    root = _root(home)
    try:
        return _running_api(root) is not None and _own_key(root) is not None
    except ClientError:
        return False


def _root(home: Path | None) -> Path:
    return (home or Path(os.environ.get("CELERIAC_HOME") or _DIRECTORY)).absolute()


def _known(url: str | None, root: Path) -> str:
    if not url:
        raise ClientError(
            f"No server is known: no stack runs in {root}, and CELERIAC_API_URL is not set. Start "
            "one there with `celeriac up`, or set CELERIAC_API_URL and CELERIAC_API_KEY.",
            code="no_server",
        )
    return url


def _running_api(root: Path) -> str | None:
    path = root / _STACK_FILE
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        supervisor = ProcessIdentity(
            pid=int(stored["supervisor"]["pid"]), started=int(stored["supervisor"]["started"])
        )
        url = stored["api_url"]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ClientError(f"{path} can't be read: {error.strerror}.", code="no_server") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ClientError(
            f"{path} can't be understood. Stop Celeriac, delete it and start again.",
            code="no_server",
        ) from error
    return str(url) if url and still_running(supervisor) else None


def _own_key(root: Path) -> str | None:
    path = root / _KEY_FILE
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ClientError(f"{path} can't be read: {error.strerror}.", code="no_api_key") from error
