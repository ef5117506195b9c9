"""Where the file tools of Claude Code may go: into the working directory, and nowhere else.

Claude Code cleans a path up before it uses it, and searches with programs that have patterns of
their own. So a call is never judged by its text alone: what has been checked is handed back as an
absolute path without links, a text that Claude Code might read in another way is refused, and so is
every argument of a file tool that is not known here.
"""

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice, pairwise
from pathlib import PurePath
from typing import Any

Arguments = Mapping[str, Any]


class OutsideError(Exception):
    """An argument leads out of the working directory, or may."""


_PATHS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("Read", "Write", "Edit", "MultiEdit"), ("file_path",)),
    **dict.fromkeys(("NotebookRead", "NotebookEdit"), ("notebook_path",)),
    **dict.fromkeys(("Glob", "Grep", "LS"), ("path",)),
    "LSP": ("filePath", "file_path"),
    "Workflow": ("scriptPath",),
}
"""The tools that go to files, and the arguments that hold a file or directory."""

_FILTERS = {"Grep": "glob", "LS": "ignore"}
"""Arguments that hold patterns for names below another argument's path."""

_OTHERS: Mapping[str, Set[str]] = {
    "Read": {"offset", "limit", "pages", "allow_large"},
    "Write": {"content"},
    "Edit": {"old_string", "new_string", "replace_all"},
    "MultiEdit": {"edits"},
    "NotebookRead": {"cell_id"},
    "NotebookEdit": {"cell_id", "cell_number", "new_source", "cell_type", "edit_mode"},
    "Glob": {"pattern"},
    "Grep": {
        "pattern", "output_mode", "-A", "-B", "-C", "context", "-n", "-i", "-o", "type",
        "head_limit", "offset", "multiline",
    },
    "LSP": {"operation", "line", "character", "query"},
    "Workflow": {"script", "name", "description", "title", "args", "resumeFromRunId"},
}  # fmt: skip
"""The other known arguments: no paths, but for the pattern of Glob, which may lead anywhere."""

_SEARCHES = frozenset({"Glob", "Grep", "LS"})
"""These go to the current directory, whatever that is by then, where no path is given."""

_MOVES = frozenset({"EnterWorktree", "ExitWorktree"})

_LIKE_A_PATH = re.compile(
    r"(?i:(?:^|_)(?:path|paths|file|files|dir|directory|folder|cwd|root))$"
    r"|(?:Path|Paths|File|Files|Dir|Directory|Folder)$"
)
_WILDCARD = re.compile(r"[*?\[\]{}!\\]")
_URL = re.compile(r"(?i:file:|[a-z][a-z0-9+.-]*://)")
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp", "Zs"})
_LONGEST = 4_096
_MOST_ALTERNATIVES = 64
_MOST_BRACES = 16
_MOST_ENTRIES = 10_000


def checked_arguments(tool: str, arguments: Arguments, root: str, cwd: str) -> dict[str, Any]:
    """Return the arguments that a call may be made with: its paths absolute, without links.

    `root` is the working directory without links, `cwd` where relative paths begin: the root or a
    directory below it. Arguments of tools that go to no files come back as they are. Raises
    OutsideError, with a text for the agent.
    """
    if tool.startswith("mcp__"):
        return dict(arguments)
    if tool not in _PATHS:
        return _of_other_tool(tool, arguments, root)
    filters = _FILTERS.get(tool)
    unknown = sorted(set(arguments).difference(_PATHS[tool], _OTHERS.get(tool, ()), {filters}))
    if unknown:
        raise OutsideError(f"{tool} may not be used with {', '.join(unknown)}. Leave that out.")
    place = _Place(tool, root, cwd)
    checked = dict(arguments)
    for name in _PATHS[tool]:
        if checked.get(name) is not None:
            checked[name] = place.path(name, checked[name])
    if filters and checked.get(filters) is not None:
        place.filter(filters, checked[filters])
    if tool == "Glob":
        checked["path"], checked["pattern"] = place.pattern(
            checked.get("path") or cwd, checked.get("pattern")
        )
    elif tool in _SEARCHES and checked.get("path") is None:
        checked["path"] = cwd
    return checked


def _of_other_tool(tool: str, arguments: Arguments, root: str) -> dict[str, Any]:
    if tool in _MOVES or arguments.get("isolation") is not None:
        raise OutsideError(f"{tool} would leave the working directory {root}. Do without that.")
    paths = sorted(name for name in arguments if _LIKE_A_PATH.search(name))
    if paths:
        raise OutsideError(
            f"{tool} may not be used with {', '.join(paths)}: only tools whose paths can be "
            f"checked may go to files in the working directory {root}."
        )
    return dict(arguments)


@dataclass(frozen=True, slots=True)
class _Place:
    """The working directory, for one call of a tool."""

    tool: str
    root: str
    cwd: str

    def path(self, name: str, text: object) -> str:
        """Return the absolute path that `text` means, links followed."""
        return self._resolved(name, self.cwd, self._readable(name, text))

    def filter(self, name: str, value: object) -> None:
        """Accept patterns that only select among the files below another path."""
        for text in value if isinstance(value, list) else [value]:
            pattern = self._readable(name, text)
            for each in self._alternatives(name, pattern.removeprefix("!")):
                if each.startswith("/") or _may_climb(each.split("/")):
                    raise self._outside(name)

    def pattern(self, base: str, text: object) -> tuple[str, str]:
        """Return the directory that a search by a pattern begins in, and the rest of the pattern.

        Of the rest, no part can mean `..`, and none but `**`, which no search follows links with,
        can stand for a link that leads out.
        """
        parts = self._readable("pattern", text).split("/")
        if parts == [""]:
            raise self._outside("pattern")
        fixed = 0
        while fixed < len(parts) - 1 and not _WILDCARD.search(parts[fixed]):
            fixed += 1
        start = "/".join(parts[:fixed]) or ("/" if fixed else "")
        rest = "/".join(parts[fixed:])
        directory = self._resolved("pattern", base, start) if start else base
        for each in self._alternatives("pattern", rest):
            wanted = each.split("/")
            if each.startswith("/") or _may_climb(wanted):
                raise self._outside("pattern")
            self._refuse_links(directory, wanted)
        return directory, rest

    def _readable(self, name: str, text: object) -> str:
        """Return a text that means the same to everybody who reads it."""
        if not isinstance(text, str) or len(text) > _LONGEST:
            raise self._outside(name)
        unseen = any(unicodedata.category(each) in _UNSEEN and each != " " for each in text)
        if unseen or text != text.strip():
            raise OutsideError(
                f"{self.tool} may only go to files in the working directory {self.root} whose "
                f"names are plain: {name} has blanks at its ends, or characters that can't be seen."
            )
        if text.startswith("~") or _URL.match(text):
            raise self._outside(name)
        return text

    def _resolved(self, name: str, base: str, text: str) -> str:
        place = os.path.realpath(os.path.join(base, text))  # noqa: PTH118 - keeps `..`
        if place != self.root and not place.startswith(self.root + os.sep):
            raise self._outside(name)
        return place

    def _alternatives(self, name: str, pattern: str) -> list[str]:
        """Return the expansions of the pattern's braces."""
        if "\\" in pattern:
            raise OutsideError(f"{self.tool} may not be used with a backslash in {name}.")
        found = []
        if pattern.count("{") <= _MOST_BRACES:
            found = list(islice(_unfolded(pattern), _MOST_ALTERNATIVES + 1))
        if not 0 < len(found) <= _MOST_ALTERNATIVES:
            raise OutsideError(f"{name} has too many alternatives. Use fewer braces.")
        return found

    def _refuse_links(self, directory: str, parts: list[str]) -> None:
        """Refuse wildcards that match a link out of the working directory."""
        places = [directory]
        for part in parts[:-1]:
            if part == "**":
                return
            places = [entry for place in places for entry in self._matching(place, part)]
            if len(places) > _MOST_ENTRIES:
                raise OutsideError("pattern stands for too many directories. Narrow it down.")

    def _matching(self, place: str, part: str) -> Iterator[str]:
        try:
            entries = os.scandir(place)
        except OSError:
            return
        with entries:
            for number, entry in enumerate(entries):
                if number >= _MOST_ENTRIES:
                    raise OutsideError("pattern goes to too large a directory. Narrow it down.")
                if fnmatchcase(entry.name, part) and entry.is_dir():
                    yield self._resolved("pattern", place, entry.name)

    def _outside(self, name: str) -> OutsideError:
        return OutsideError(
            f"{self.tool} may only go to files in the working directory {self.root}; "
            f"{name} leads out of it."
        )


def _may_climb(parts: list[str]) -> bool:
    """Whether a part of a pattern may match `.` or `..`, other than by matching all names."""
    *leading, last = parts
    return any(_means_dots(part) or not part for part in leading) or (
        last != ".*" and _means_dots(last)
    )


def _means_dots(part: str) -> bool:
    if not part.strip("*"):
        return False
    return fnmatchcase(".", part) or fnmatchcase("..", part)


def _unfolded(pattern: str) -> Iterator[str]:
    """Yield the expansions of a pattern's braces; unbalanced ones are literal."""
    start = pattern.find("{")
    while start >= 0:
        commas, depth = [start], 0
        for place in range(start, len(pattern)):
            if pattern[place] == "{":
                depth += 1
            elif pattern[place] == "," and depth == 1:
                commas.append(place)
            elif pattern[place] == "}":
                depth -= 1
                if depth == 0:
                    bounds = [*commas, place]
                    for left, right in pairwise(bounds):
                        middle = pattern[left + 1 : right]
                        yield from _unfolded(pattern[:start] + middle + pattern[place + 1 :])
                    return
        start = pattern.find("{", start + 1)
    yield pattern


def directory_of(cwd: object, root: str) -> str:
    """Return the base of relative paths: Claude Code's directory, if that is in `root`."""
    if isinstance(cwd, str) and PurePath(cwd).is_absolute():
        place = os.path.realpath(cwd)
        if place.startswith(root + os.sep):
            return place
    return root
