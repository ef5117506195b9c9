"""Labels of executions: names and values that people and programs choose, to find them by."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import AfterValidator, StringConstraints

from celeriac.domain.errors import InvalidInputError
from celeriac.kit.json_types import storable_text
from celeriac.kit.words import counted

MOST_LABELS: Final = 16
LONGEST_KEY: Final = 63
LONGEST_VALUE: Final = 200

Labels = Mapping[str, str]
NO_LABELS: Final[Labels] = {}

_KEY = re.compile(rf"[A-Za-z][A-Za-z0-9_.-]{{0,{LONGEST_KEY - 1}}}")
_KEY_RULE = (
    f"a label's key begins with a letter and has letters, digits, '_', '.' and '-', at most "
    f"{LONGEST_KEY} characters"
)


def _key(text: str) -> str:
    if _KEY.fullmatch(text) is None:
        raise ValueError(_KEY_RULE)
    return text


def _value(text: str) -> str:
    if not text.isprintable() or storable_text(text) != text:
        raise ValueError("a label's value is one line of printable characters")
    return text


LabelKey = Annotated[str, AfterValidator(_key)]
LabelValue = Annotated[
    str,
    StringConstraints(min_length=1, max_length=LONGEST_VALUE),
    AfterValidator(_value),
]


@dataclass(frozen=True, slots=True, order=True)
class Label:
    """One label, as filters name it."""

    key: str
    value: str

    def __str__(self) -> str:
        """Return `KEY:VALUE`."""
        return f"{self.key}:{self.value}"


def parse_label(text: str) -> Label:
    """Read `KEY:VALUE`. Raises ValueError."""
    key, mark, value = text.partition(":")
    if not mark or not value:
        raise ValueError("write a label as KEY:VALUE")
    if len(value) > LONGEST_VALUE:
        raise ValueError(f"a label's value has at most {LONGEST_VALUE} characters")
    return Label(_key(key), _value(value))


def checked_labels(labels: Labels) -> dict[str, str]:
    """Return labels in the order of their keys. Raises InvalidInputError, which names the label."""
    if len(labels) > MOST_LABELS:
        raise InvalidInputError(
            f"labels has {counted(len(labels), 'entry', 'entries')}; the most are {MOST_LABELS}.",
            field="labels",
        )
    for key, value in labels.items():
        try:
            parse_label(f"{_key(key)}:{value}")
        except ValueError as error:
            raise InvalidInputError(f"labels.{key[:80]}: {error}.", field="labels") from error
    return dict(sorted(labels.items()))


def checked_changes(changes: Mapping[Any, Any]) -> dict[str, str | None]:
    """Return changes that an agent's code gave; None removes a label.

    Raises InvalidInputError, which names the label.
    """
    for key, value in changes.items():
        if not isinstance(key, str) or not (value is None or isinstance(value, str)):
            raise InvalidInputError(
                f"labels.{str(key)[:80]}: keys and values of labels are text, and None removes "
                "a label.",
                field="labels",
            )
    checked_labels({key: value for key, value in changes.items() if value is not None})
    return dict(changes)


def relabelled(before: Labels, changes: Mapping[str, str | None]) -> dict[str, str]:
    """Return labels with `changes`: None removes one. Raises InvalidInputError."""
    both = {**before, **changes}
    return checked_labels({key: value for key, value in both.items() if value is not None})
