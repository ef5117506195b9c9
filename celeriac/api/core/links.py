"""Paths of the API, and the address under which it is reached."""

PREFIX = "/api/v1"
_SIGNED = f"{PREFIX}/approvals/links/"
_HOOKS = "/hooks/"


def shown_path(path: str) -> str:
    """Return a request's path for logs, without the token of a signed link or a hook."""
    for secret in (_SIGNED, _HOOKS):
        if path.startswith(secret):
            return f"{secret}***"
    return path


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
