"""What a command that asks the server is given: a connection, and where its answers go."""

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, get_args

from celeriac.cli.exits import CommandError, ExitCode
from celeriac.cli.ids import IdOf
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

    The command gets the options that say which server is meant, and `--json`. Parameters that are
    marked with `IdOf` reach it as whole ids.
    """
    own = list(inspect.signature(command).parameters.values())[1:]
    ids = {each.name: mark for each in own if (mark := _mark(each)) is not None}

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
                for name, mark in ids.items():
                    if kwargs[name] is not None:
                        kwargs[name] = mark.resolve(session.client, kwargs[name])
                command(session, *args, **kwargs)
            except ClientError as error:
                raise told_by_server(error) from error

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


def _mark(parameter: inspect.Parameter) -> IdOf | None:
    marks = (each for each in get_args(parameter.annotation) if isinstance(each, IdOf))
    return next(marks, None)


def _option(name: str, annotation: Any, default: object) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, annotation=annotation, default=default)


_SHARED = (
    _option("as_json", Json, default=False),
    _option("api_url", ApiUrl, default=None),
    _option("api_key", ApiKey, default=None),
    _option("home", ServerHome, default=None),
)
