"""The directory of a session in what is stored of it: its path is another one elsewhere.

Claude Code works with absolute paths, so a conversation is full of them. Where it is continued, on
another machine or in a fork, they must lead to the files that were restored there.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

_MARK = "\ue0ce"
"""Of the private use area; a text that has it by itself gets `_OWN_MARK`."""

_OWN_MARK, _PLACE = f"{_MARK}0", f"{_MARK}1"


@dataclass(frozen=True, slots=True)
class SessionPlace:
    """The directory of a session on this machine; without a path nothing is changed."""

    path: str = ""
    real: str = ""
    """The same without links, as programs in it see it."""

    @classmethod
    def of(cls, directory: Path) -> Self:
        """Return the place of the session in `directory`."""
        path = str(directory.absolute())
        return cls(path, os.path.realpath(path))

    def without_paths(self, value: Any) -> Any:
        """Return a JSON value in which no text has the directory's path, to be stored."""
        return _changed(value, self._without) if self.path else value

    def with_paths(self, value: Any) -> Any:
        """Return what `without_paths` of any place has returned, with the path of this one."""
        return _changed(value, self._with) if self.path else value

    def moved(self, value: Any, earlier: str | None) -> Any:
        """Return a JSON value with this directory's path in the place of an `earlier` one."""
        if not earlier or not self.path or earlier == self.path:
            return value
        return _changed(value, lambda text: text.replace(earlier, self.path))

    def _without(self, text: str) -> str:
        text = text.replace(_MARK, _OWN_MARK)
        for path in sorted({self.path, self.real}, key=len, reverse=True):
            text = text.replace(path, _PLACE)
        return text

    def _with(self, text: str) -> str:
        return text.replace(_PLACE, self.path).replace(_OWN_MARK, _MARK) if _MARK in text else text


NOWHERE = SessionPlace()
"""The place of what is the same everywhere."""


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    match value:
        case str():
            return change(value)
        case dict():
            return {change(key): _changed(each, change) for key, each in value.items()}
        case list():
            return [_changed(each, change) for each in value]
    return value
