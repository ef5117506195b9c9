"""The steps by which a document is applied: the outcome of each entry, and how it is written."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celeriac.db.engine import Connection
from celeriac.domain.document import Action, Outcome, differences
from celeriac.kit.json_types import JsonObject


@dataclass(frozen=True, slots=True)
class Step:
    """The change for one entry; `write` makes it and returns the outcome with its ids."""

    outcome: Outcome
    write: Callable[[Connection], Outcome]

    def apply(self, connection: Connection) -> Outcome:
        """Make the change, if there is one."""
        unchanged = self.outcome.action is Action.UNCHANGED
        return self.outcome if unchanged else self.write(connection)


def created(kind: str, name: str, values: JsonObject) -> Outcome:
    """Return the outcome for what is missing, with all values that are set."""
    changes = [each for each in differences({}, values) if each.after not in (None, "", {})]
    return Outcome(kind=kind, name=name, action=Action.CREATE, changes=changes)


def compared(kind: str, name: str, before: JsonObject, after: JsonObject, **stored: Any) -> Outcome:
    """Return the outcome for what is stored, with the values that differ."""
    changes = differences(before, after)
    action = Action.CHANGE if changes else Action.UNCHANGED
    return Outcome(kind=kind, name=name, action=action, changes=changes, **stored)
