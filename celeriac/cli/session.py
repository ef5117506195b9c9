"""What a command that asks the server is given: a connection, and where its answers go."""

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from celeriac.cli.exits import CommandError, ExitCode
from celeriac.cli.local import log_directory
from celeriac.cli.options import ApiKey, ApiUrl, Json, ServerHome
from celeriac.cli.output import Output
from celeriac.cli.server import Server, find_server

if TYPE_CHECKING:
    from celeriac.client import Client, ClientError

_P = ParamSpec("_P")


class Session:
    """One command's talk with the server. The connection is made when it is first needed."""

    def __init__(self, server: Server, home: Path | None, output: Output, stack: ExitStack) -> None:
        self.server = server
        self.output = output
        self._home = home
        self._stack = stack
        self._client: Client | None = None

    @property
    def client(self) -> "Client":
        """The SDK's client of this server."""
        if self._client is None:
            from celeriac.client import Client

            self._client = self._stack.enter_context(
                Client(self.server.url, api_key=self.server.api_key)
            )
        return self._client

    @property
    def logs(self) -> Path:
        """Where programs of this home write their log files."""
        return log_directory(self._home)


def connected(command: Callable[Concatenate[Session, _P], None]) -> Callable[..., None]:
    """Make a command of a function that takes a Session first.

    The command gets the options that say which server is meant, and `--json`.
    """

    @wraps(command)
    def with_session(
        *args: Any,
        api_url: str | None,
        api_key: str | None,
        home: Path | None,
        as_json: bool,
        **kwargs: Any,
    ) -> None:
        from celeriac.client import ClientError

        server = find_server(home, api_url, api_key)
        with ExitStack() as stack:
            session = Session(server, home, Output(as_json=as_json), stack)
            try:
                command(session, *args, **kwargs)
            except ClientError as error:
                raise told_by_server(error) from error

    own = list(inspect.signature(command).parameters.values())[1:]
    every = [*own, *_SHARED]
    with_session.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    with_session.__annotations__ = {each.name: each.annotation for each in every}
    del with_session.__wrapped__  # Typer reads the signature that is given here
    return with_session


def told_by_server(error: "ClientError") -> CommandError:
    """Return what the client's error means for a command."""
    lines = [error.message]
    if len(error.fields) > 1:
        lines += [f"       {each.field}: {each.message}" for each in error.fields]
    return CommandError(
        "\n".join(lines), exit_code=_exit_code(error.status, error.code), problem=error.code
    )


def _exit_code(status: int | None, code: str) -> ExitCode:
    if status is None:
        return ExitCode.UNAVAILABLE if code == "unreachable" else ExitCode.FAILED
    return _BY_STATUS.get(status, ExitCode.FAILED)


_BY_STATUS = {
    400: ExitCode.USAGE,
    413: ExitCode.USAGE,
    415: ExitCode.USAGE,
    422: ExitCode.USAGE,
    401: ExitCode.DENIED,
    403: ExitCode.DENIED,
    404: ExitCode.NOT_FOUND,
    502: ExitCode.UNAVAILABLE,
    503: ExitCode.UNAVAILABLE,
    504: ExitCode.UNAVAILABLE,
}


def _option(name: str, annotation: Any, default: object) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, annotation=annotation, default=default)


_SHARED = (
    _option("as_json", Json, default=False),
    _option("api_url", ApiUrl, default=None),
    _option("api_key", ApiKey, default=None),
    _option("home", ServerHome, default=None),
)
