"""Conversations that an agent's own SDK writes, entry by entry; they belong to sessions."""

from collections.abc import Sequence
from dataclasses import asdict
from uuid import UUID

from sqlalchemy import Connection, text

from celeriac.domain.executions.model import Lease
from celeriac.domain.sessions import TranscriptKey
from celeriac.kit.json_types import JsonValue, loads

_APPEND = text("""
WITH held AS (
    -- locked: nothing is added after the end of its attempt
    SELECT e.session_id FROM executions e
    WHERE e.id = :execution_id AND e.attempt = :attempt AND e.lease_token = :token
      AND e.status = 'running'
    FOR NO KEY UPDATE
), last AS (
    SELECT coalesce(max(seq), 0) AS seq FROM transcript_entries
    WHERE session_id = :id AND project = :project AND conversation = :conversation
      AND subpath = :subpath
), added AS (
    INSERT INTO transcript_entries
        (session_id, project, conversation, subpath, seq, entry_id, body)
    SELECT :id, :project, :conversation, :subpath, last.seq + b.place, b.entry_id,
           CAST(b.body AS json)
    FROM held, last,
         unnest(CAST(:bodies AS text[]), CAST(:entry_ids AS text[]))
             WITH ORDINALITY AS b (body, entry_id, place)
    WHERE held.session_id = :id
    -- sent again after a lost answer
    ON CONFLICT (session_id, project, conversation, subpath, entry_id) DO NOTHING
)
SELECT session_id FROM held WHERE session_id = :id
""")


def append(
    connection: Connection,
    lease: Lease,
    session_id: UUID,
    key: TranscriptKey,
    *,
    entry_ids: Sequence[str],
    bodies: Sequence[str],
) -> bool:
    """Add entries, JSON texts with the ids that make repeats; False for a lost lease."""
    parameters = {
        **asdict(lease),
        **_of(session_id, key),
        "entry_ids": list(entry_ids),
        "bodies": list(bodies),
    }
    return connection.execute(_APPEND, parameters).one_or_none() is not None


_LOAD = text("""
SELECT body::text FROM transcript_entries
WHERE session_id = :id AND project = :project AND conversation = :conversation
  AND subpath = :subpath
ORDER BY seq
""")


def load(connection: Connection, session_id: UUID, key: TranscriptKey) -> list[JsonValue]:
    """Return the entries of a transcript, in their order."""
    return [loads(body) for body in connection.execute(_LOAD, _of(session_id, key)).scalars()]


_SUBPATHS = text("""
SELECT DISTINCT subpath FROM transcript_entries
WHERE session_id = :id AND project = :project AND conversation = :conversation
  AND subpath > ''
ORDER BY subpath
""")


def subpaths(connection: Connection, session_id: UUID, key: TranscriptKey) -> list[str]:
    """Return the parts of a conversation besides its main transcript: those of subagents."""
    parameters = _of(session_id, key)
    del parameters["subpath"]
    return list(connection.execute(_SUBPATHS, parameters).scalars())


def _of(session_id: UUID, key: TranscriptKey) -> dict[str, object]:
    return {"id": session_id, **asdict(key)}
