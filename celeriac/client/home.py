"""The server that runs in a home, as `celeriac up` describes it in two files there."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from celeriac.client.errors import ClientError
from celeriac.kit.proctable import ProcessIdentity, still_running

_DIRECTORY = ".celeriac"
_STACK_FILE = "stack.json"
_KEY_FILE = Path("secrets", "admin_api_key")


@dataclass(frozen=True, slots=True)
class Server:
    """An API and the key to it."""

    url: str
    api_key: str = field(repr=False)


def find_server(home: Path | None = None) -> Server:
    """Return the server to ask: as the environment says, else the one that runs in the home.

    The home is `home`, CELERIAC_HOME, or `.celeriac` in the current directory. Its key is given to
    its own server only. Raises ClientError: `no_server` or `no_api_key`.
    """
    root = (home or Path(os.environ.get("CELERIAC_HOME") or _DIRECTORY)).absolute()
    url, key = os.environ.get("CELERIAC_API_URL"), os.environ.get("CELERIAC_API_KEY")
    if url and key:
        return Server(url, key)
    own_url = _running_api(root)
    url = url or own_url
    if not url:
        raise ClientError(
            f"No server is known: no stack runs in {root}, and CELERIAC_API_URL is not set. Start "
            "one there with `celeriac up`, or set CELERIAC_API_URL and CELERIAC_API_KEY.",
            code="no_server",
        )
    if not key and own_url and url.rstrip("/") == own_url.rstrip("/"):
        key = _own_key(root)
    if not key:
        raise ClientError(
            f"No API key for {url} is known. Set CELERIAC_API_KEY to one (`celeriac keys create`).",
            code="no_api_key",
        )
    return Server(url, key)


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
