"""Commands that use the API: connection, output, shared options, and errors of the server."""

import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import MISSING, fields, is_dataclass
from functools import cached_property, wraps
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, get_args, get_type_hints

import typer

from celeriac.cli.core.arguments import ApiKey, ApiUrl, Json, ServerHome, WorkspaceOption
from celeriac.cli.core.ids import IdOf
from celeriac.cli.core.output import CommandError, ExitCode, Output
from celeriac.cli.core.server import find_server, load_own_settings
from celeriac.kit.words import counted

if TYPE_CHECKING:
    from celeriac.client import Client, ClientError
    from celeriac.client.server import Server

Command = Callable[Concatenate["CommandContext", ...], None]


class CommandContext:
    """The server and the output of one command. It connects when `client` is first used."""

    def __init__(
        self,
        server: "Server",
        workspace: str | None,
        home: Path | None,
        output: Output,
        stack: ExitStack,
    ) -> None:
        self.server = server
        self.workspace = workspace
        self.output = output
        self._home = home
        self._stack = stack

    @cached_property
    def client(self) -> "Client":
        """The SDK's client of this server."""
        from celeriac.client import Client

        client = Client(self.server.url, api_key=self.server.api_key, workspace=self.workspace)
        return self._stack.enter_context(client)

    @property
    def logs(self) -> Path:
        """The directory of the log files of programs in this home."""
        return load_own_settings(self._home).logs

    def say_away(self, away: bool) -> None:
        """Report that the API has stopped answering, or answers again."""
        self.output.say(
            "The API does not answer; trying again." if away else "The API answers again."
        )


def api_command(app: typer.Typer, name: str | None = None) -> Callable[[Command], None]:
    """Return a decorator that adds a function to `app`, as a command of `open_client`."""

    def add(command: Command) -> None:
        app.command(name)(open_client(command))

    return add


def open_client(command: Command) -> Callable[..., None]:
    """Make a command of a function whose first parameter is a CommandContext.

    The command gets the options that name the server, and `--json`. A parameter whose type is a
    dataclass stands for an option for each field. Values that are marked with `IdOf` are resolved
    to whole ids.
    """
    groups: dict[str, tuple[type, list[inspect.Parameter]]] = {}
    options: list[inspect.Parameter] = []
    for parameter in list(inspect.signature(command).parameters.values())[1:]:
        if is_dataclass(kind := parameter.annotation):
            assert isinstance(kind, type)
            groups[parameter.name] = kind, list(_options_of(kind))
            options += groups[parameter.name][1]
        else:
            options.append(parameter)
    ids = {
        each.name: mark
        for each in options
        for mark in get_args(each.annotation)
        if isinstance(mark, IdOf)
    }

    @wraps(command)
    def with_context(
        *,
        api_url: str | None,
        api_key: str | None,
        in_workspace: str | None,
        home: Path | None,
        as_json: bool,
        **values: Any,
    ) -> None:
        from celeriac.client import ClientError

        server = find_server(home, api_url, api_key)
        with ExitStack() as stack:
            context = CommandContext(server, in_workspace, home, Output(as_json=as_json), stack)
            try:
                for name, mark in ids.items():
                    if values[name] is not None:
                        values[name] = mark.resolve(context.client, values[name])
                for name, (kind, members) in groups.items():
                    values[name] = kind(**{each.name: values.pop(each.name) for each in members})
                command(context, **values)
            except ClientError as error:
                given = [(mark, values.get(name)) for name, mark in ids.items()]
                if (other := _other_kind(context, error, given)) is not None:
                    raise other from error
                raise server_errors(error, cure=refused_key_cure(error, home, api_key)) from error

    every = [*options, *_SHARED]
    with_context.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    with_context.__annotations__ = {each.name: each.annotation for each in every}
    del with_context.__wrapped__  # Typer reads the signature that is given here
    return with_context


def _other_kind(
    context: CommandContext, error: "ClientError", given: Sequence[tuple[IdOf, str | None]]
) -> CommandError | None:
    """Return the error for an id that is of another kind than the command takes."""
    if error.status != HTTPStatus.NOT_FOUND:
        return None
    for mark, whole in given:
        if whole is not None and (other := mark.explained(context.client, whole)) is not None:
            return other
    return None


def refused_key_cure(error: "ClientError", home: Path | None, api_key: str | None) -> str | None:
    """Return the cure for a refused key of CELERIAC_API_KEY that hides the home's own."""
    from celeriac.client.server import has_own_key

    if error.status != HTTPStatus.UNAUTHORIZED or api_key != os.environ.get("CELERIAC_API_KEY"):
        return None
    if api_key is None or not has_own_key(home):
        return None
    return (
        "The key is that of the variable CELERIAC_API_KEY, which is used instead of the home's own "
        "key. `unset CELERIAC_API_KEY` to use the home's."
    )


def server_errors(error: "ClientError", *, cure: str | None = None) -> CommandError:
    """Return the command's error for an error of the client."""
    exit_code = _BY_STATUS.get(error.status, ExitCode.FAILED)
    if error.code == "unreachable":
        exit_code = ExitCode.UNAVAILABLE
    return CommandError(
        "\n".join(_message_lines(error)),
        exit_code=exit_code,
        problem=error.code,
        cure=cure,
    )


def _message_lines(error: "ClientError") -> list[str]:
    """Return the message, and with several wrong fields a line for each.

    The API names the first ones in its message, too: these are left out of it. A message of several
    lines has them with their places in a file.
    """
    if len(error.fields) < 2 or "\n" in error.message:  # noqa: PLR2004 - several
        return [error.message]
    fields = [f"{each.field}: {each.message}" for each in error.fields]
    before, named, _ = error.message.partition(fields[0])
    count = error.details.get("faults", len(fields))
    message = f"{before}{counted(count, 'field')} are wrong." if named else error.message
    return [message, *(f"       {each}" for each in fields)]


_BY_STATUS: Mapping[int | None, ExitCode] = {
    **dict.fromkeys((400, 413, 415, 422), ExitCode.USAGE),
    **dict.fromkeys((401, 403), ExitCode.DENIED),
    404: ExitCode.NOT_FOUND,
    **dict.fromkeys((502, 503, 504), ExitCode.UNAVAILABLE),
}


def _options_of(kind: type) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    for each in fields(kind):
        made = each.default if each.default_factory is MISSING else each.default_factory()
        yield _option(each.name, hints[each.name], made)


def _option(name: str, annotation: Any, default: object) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, annotation=annotation, default=default)


_SHARED = (
    _option("as_json", Json, default=False),
    _option("api_url", ApiUrl, default=None),
    _option("api_key", ApiKey, default=None),
    _option("in_workspace", WorkspaceOption, default=None),
    _option("home", ServerHome, default=None),
)
