"""Names and ids in arguments. Ids are whole, short, or `last`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from celeriac.cli.core.completion import ids_of, names_of
from celeriac.cli.core.output import CommandError, ExitCode, UsageProblemError
from celeriac.kit.ids import parse_uuid

if TYPE_CHECKING:
    from celeriac.client import Client

LAST = "last"
SEARCHED = 500
"""Short ids are searched among this many, the newest: at most five requests."""
_LEAST = 6
_HEX = 32
_SHOWN = 12
_LISTED = 5
_DIGITS = frozenset("0123456789abcdef-")


@dataclass(frozen=True, slots=True)
class IdOf:
    """Marks a command's parameter as the id of a `kind`, as in `client.executions`.

    `open_client` replaces it with the whole id before it calls the command.
    """

    kind: str
    noun: str

    def resolve(self, client: "Client", text: str) -> str:
        """Return the whole id for `text`.

        A whole id is returned as it is. `last` is the newest; at least 6 characters are the
        beginning or the end of one of the newest 500. Raises CommandError.
        """
        if parse_uuid(text) is not None and len(text) >= _HEX:
            return text
        wanted = text.lower()
        if wanted != LAST and not self._may_be_id(wanted):
            raise UsageProblemError(
                f"{text!r} is not the id of {self.noun}.",
                cure="Give a whole id, at least 6 characters of its beginning or end, "
                f"or `{LAST}`. {self._where}",
            )
        newest = partial(_newest, client, self.kind)
        found = _last(newest) if wanted == LAST else _matching(newest, wanted.replace("-", ""))
        if not found:
            raise self._missing(text)
        if len(found) > 1:
            raise self._ambiguous(text, found)
        return str(found[0])

    @property
    def _where(self) -> str:
        return f"`celeriac {self.kind} list` shows them."

    @staticmethod
    def _may_be_id(text: str) -> bool:
        digits = len(text.replace("-", ""))
        return _DIGITS.issuperset(text) and _LEAST <= digits <= _HEX

    def _missing(self, text: str) -> CommandError:
        message = (
            f"There is no {self.kind.removesuffix('s')} yet."
            if text.lower() == LAST
            else f"None of the newest {SEARCHED} {self.kind} has an id that begins or ends with "
            f"{text}."
        )
        return CommandError(
            message, cure=self._where, exit_code=ExitCode.NOT_FOUND, problem="not_found"
        )

    def _ambiguous(self, text: str, found: list[UUID]) -> CommandError:
        more = [f"       and {len(found) - _LISTED} more"] if len(found) > _LISTED else []
        lines = [f"{text} may be {len(found)} {self.kind}:"]
        lines += [f"       {each}" for each in found[:_LISTED]]
        return CommandError(
            "\n".join([*lines, *more]),
            cure="Give more of it, best of its end: ids of about the same time begin alike.",
            exit_code=ExitCode.USAGE,
            problem="ambiguous_id",
        )


def short_id(whole: UUID | str) -> str:
    """Return the end of an id, which commands accept instead of the whole id.

    The beginning is the time of creation, so the end differs more.
    """
    return str(whole)[-_SHOWN:]


_Newest = Callable[[], Iterator[Any]]


def _newest(client: "Client", kind: str) -> Iterator[Any]:
    found: Iterator[Any] = getattr(client, kind).list()
    return found


def _last(newest: _Newest) -> list[UUID]:
    return [each.id for each in islice(newest(), 1)]


def _matching(newest: _Newest, digits: str) -> list[UUID]:
    """Return all ids that begin or end with `digits`."""
    return [
        each.id
        for each in islice(newest(), SEARCHED)
        if each.id.hex.startswith(digits) or each.id.hex.endswith(digits)
    ]


_FORMS = "Whole, its beginning or end, or last."

ExecutionId = Annotated[
    str,
    typer.Argument(
        metavar="EXECUTION",
        help=f"The execution's id. {_FORMS}",
        autocompletion=ids_of("executions"),
    ),
    IdOf("executions", "an execution"),
]
OptionalExecutionId = Annotated[
    str | None,
    typer.Argument(
        metavar="EXECUTION",
        help=f"The execution's id. {_FORMS}",
        autocompletion=ids_of("executions"),
    ),
    IdOf("executions", "an execution"),
]
ExecutionOption = Annotated[
    str | None,
    typer.Option(
        "--execution",
        metavar="ID",
        help="Only of this execution.",
        autocompletion=ids_of("executions"),
    ),
    IdOf("executions", "an execution"),
]
ApprovalId = Annotated[
    str,
    typer.Argument(
        metavar="APPROVAL",
        help=f"The question's id, from `approvals list`. {_FORMS}",
        autocompletion=ids_of("approvals"),
    ),
    IdOf("approvals", "a question"),
]
SessionId = Annotated[
    str,
    typer.Argument(
        metavar="SESSION",
        help=f"The session's id. {_FORMS}",
        autocompletion=ids_of("sessions"),
    ),
    IdOf("sessions", "a session"),
]
CassetteId = Annotated[
    str,
    typer.Argument(
        metavar="CASSETTE",
        help="The cassette's id, or the whole id of the execution that recorded it. "
        "Short ids and last mean cassettes.",
    ),
    IdOf("cassettes", "a cassette"),
]
KeyId = Annotated[
    str,
    typer.Argument(metavar="ID", help=f"The key's id, from `keys list`. {_FORMS}"),
    IdOf("keys", "a key"),
]
BudgetId = Annotated[
    str,
    typer.Argument(metavar="BUDGET", help=f"The budget's id. {_FORMS}"),
    IdOf("budgets", "a budget"),
]
AgentName = Annotated[
    str,
    typer.Argument(
        metavar="AGENT", help="The agent's name or id.", autocompletion=names_of("agents")
    ),
]
TaskName = Annotated[
    str,
    typer.Argument(metavar="TASK", help="The task's name or id.", autocompletion=names_of("tasks")),
]
