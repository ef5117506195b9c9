"""Claude Code's conversations in the database, by the session store of its SDK.

Claude Code writes a conversation to files of its configuration directory, and the SDK copies each
entry to the store. Before a conversation is resumed, `write_conversation` writes the files from the
store, where this machine does not have the same conversation. The SDK would do so itself, but into
a temporary directory that the user of the agent and the sandbox can't reach.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, cast

from claude_agent_sdk import project_key_for_directory
from claude_agent_sdk.types import (
    SessionKey,
    SessionListSubkeysKey,
    SessionStore,
    SessionStoreEntry,
)

from celeriac.agents.claude.place import NOWHERE, SessionPlace
from celeriac.domain.errors import SessionUnavailableError
from celeriac.domain.sessions import TranscriptKey
from celeriac.kit.files import Folder, path_parts, remove_tree
from celeriac.kit.json_types import JsonValue
from celeriac.kit.threads import FILES
from celeriac.kit.users import ChildUser
from celeriac.services.ports import Transcripts

_PROJECTS = "projects"
_METADATA = "agent_metadata"
"""The type of the entries that stand for the file beside a subagent's transcript."""

_LONGEST_LINE = 256 << 20


class ClaudeSessionStore:
    """The transcripts of one session, as the SDK asks for them: what its `SessionStore` requires.

    The SDK names a project after the working directory, which is another one on each machine:
    `project`, the own one, is stored under no name, and no entry with the path of `place`.
    """

    def __init__(
        self, transcripts: Transcripts, project: str, place: SessionPlace = NOWHERE
    ) -> None:
        self._transcripts = transcripts
        self._project = project
        self._place = place

    async def append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        """Store entries."""
        if entries:
            stored = self._place.without_paths(cast("list[JsonValue]", entries))
            await self._transcripts.append(self._key(key), stored)

    async def load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        """Return all entries, or None if there are none."""
        found = self._place.with_paths(await self._transcripts.load(self._key(key)))
        return cast("list[SessionStoreEntry]", found) or None

    async def list_subkeys(self, key: SessionListSubkeysKey) -> list[str]:
        """Return the names of the transcripts of subagents."""
        return await self._transcripts.subpaths(self._key(key))

    def _key(self, key: Any) -> TranscriptKey:
        project = "" if key["project_key"] == self._project else key["project_key"]
        return TranscriptKey(key["session_id"], project, key.get("subpath", ""))


class Mirror(ClaudeSessionStore):
    """The store for an attempt, whose conversation is written already: it is only written to."""

    async def load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        """Return None, so that the SDK lets Claude Code read its own files."""
        del key
        return None


def mirror(transcripts: Transcripts, workdir: Path, place: SessionPlace) -> SessionStore:
    """Return the store for the attempt that works in `workdir` of a session."""
    store = Mirror(transcripts, project_key_for_directory(workdir), place)
    return cast("SessionStore", store)  # the other methods are optional


@dataclass(frozen=True, slots=True)
class _File:
    """A file below `projects/<project>`."""

    path: str
    lines: Sequence[Any]

    def text(self) -> str:
        return "".join(json.dumps(each, separators=(",", ":")) + "\n" for each in self.lines)


async def write_conversation(
    transcripts: Transcripts, conversation: str, config: Path, workdir: Path, user: ChildUser
) -> None:
    """See that Claude Code finds a conversation from `workdir`, in the session's `config`.

    This machine's own files are kept if they continue what is stored: they may have more. After a
    crash they may also have what another machine has continued otherwise. Raises
    SessionUnavailableError where neither the database nor this machine has it.
    """
    project = project_key_for_directory(workdir)
    store = ClaudeSessionStore(transcripts, project, SessionPlace.of(config.parent))
    main = await store.load({"project_key": project, "session_id": conversation}) or []
    there = Folder(config.parent, config.name, _PROJECTS, project)
    if await FILES.run(_continues, there, f"{conversation}.jsonl", main):
        return
    if not main:
        raise SessionUnavailableError(
            f"The conversation {conversation} of the session is not stored: its worker was lost "
            "before it could be. Run the task without the session."
        )
    files = [_File(f"{conversation}.jsonl", main)]
    for subpath in await store.list_subkeys({"project_key": project, "session_id": conversation}):
        key: SessionKey = {
            "project_key": project,
            "session_id": conversation,
            "subpath": subpath,
        }
        files += _of_subagent(f"{conversation}/{subpath}", await store.load(key) or [])
    await FILES.run(_write_files, files, config, project, user)


def _of_subagent(path: str, entries: Sequence[Any]) -> list[_File]:
    lines = [each for each in entries if each.get("type") != _METADATA]
    about = [each for each in entries if each.get("type") == _METADATA]
    plain = [{name: value for name, value in each.items() if name != "type"} for each in about]
    files = [_File(f"{path}.jsonl", lines), _File(f"{path}.meta.json", plain[-1:])]
    return [each for each in files if each.lines]


def _continues(folder: Folder, name: str, entries: Sequence[Any]) -> bool:
    """Whether a file has all of `entries`, and no other messages before or between them.

    They are compared by their ids, as what is stored is masked. Entries without an id may be in the
    file only. The agent can write to it.
    """
    wanted = list(dict.fromkeys(filter(None, map(_id_of, entries))))
    found, lines = dict[str, None](), 0
    try:
        with folder.open(name).file as file:
            while lines < max(len(entries), 1) or len(found) < len(wanted):
                line = file.readline(_LONGEST_LINE)
                if not line.endswith(b"\n"):
                    return False
                lines += 1
                if entry_id := _id_of(json.loads(line)):
                    found[entry_id] = None
    except (OSError, ValueError, RecursionError):
        return False
    return list(found)[: len(wanted)] == wanted


def _id_of(entry: Any) -> str | None:
    found = entry.get("uuid") if isinstance(entry, dict) else None
    return found if isinstance(found, str) else None


def _write_files(files: Sequence[_File], config: Path, project: str, user: ChildUser) -> None:
    """Replace the conversations in `config`.

    They are written where the agent can't be, since it may have made links in `config`, and moved
    there: a move replaces a link and follows none.
    """
    beside = Path(mkdtemp(prefix="run-", dir=config.parent))
    try:
        new = beside / _PROJECTS
        new.mkdir()
        for each in files:
            path = new.joinpath(project, *path_parts(each.path))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(each.text(), encoding="utf-8")
        user.own(new)
        target = config / _PROJECTS
        if os.path.lexists(target):
            target.rename(beside / "old")
        new.rename(target)
    finally:
        remove_tree(beside)
