"""Paths of the API, and the address under which it is reached."""

import re

PREFIX = "/api/v1"
_SIGNED = f"{PREFIX}/approvals/links/"
_HOOKS = "/hooks/"
_CALLED = re.compile(f"{_HOOKS}[A-Za-z0-9_=-]{{40,}}")


def shown_path(path: str) -> str:
    """Return a request's path for logs, without the token of a signed link or a hook."""
    begin, found, _ = path.partition(_SIGNED)
    return f"{begin}{found}***" if found else _CALLED.sub(f"{_HOOKS}***", path)


def hook(token: str) -> str:
    """Return the path of a hook that is called."""
    return f"{_HOOKS}{token}"


def signed(token: str) -> str:
    """Return the path of a signed link to a question."""
    return f"{_SIGNED}{token}"


def listening(server: tuple[str, int | None] | None) -> str:
    """Return the address of this server, independent of the headers of requests."""
    host, port = server or ("localhost", None)
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}" if port is None else f"http://{name}:{port}"
