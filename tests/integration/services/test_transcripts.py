"""Conversations that an agent's own SDK writes: the SDK's contract, and what we promise beyond."""

from uuid import UUID, uuid4

import pytest
from claude_agent_sdk.testing import run_session_store_conformance

from celeriac.agents.claude.session_store import ClaudeSessionStore
from celeriac.db import sessions
from celeriac.domain.errors import LeaseLostError
from celeriac.domain.executions.model import Claim, Lease
from celeriac.domain.sessions import TranscriptKey
from celeriac.logs.masks import Masker
from celeriac.services.executions.masking import MaskedTranscripts
from celeriac.services.sessions import SessionTranscripts
from tests.support.core import Core

pytestmark = pytest.mark.anyio

MAIN = TranscriptKey("c1")


def begun(core: Core) -> tuple[Claim, UUID]:
    """A running attempt with a session."""
    claim = core.running()
    with core.database.autocommit() as connection:
        session_id = sessions.begin(connection, claim.lease, runner="claude", parent_id=None)
    assert session_id is not None
    return claim, session_id


def transcripts(core: Core) -> SessionTranscripts:
    claim, session_id = begun(core)
    return SessionTranscripts(core.database, claim.lease, session_id)


async def test_the_store_keeps_the_contract_of_the_sdk(core: Core) -> None:
    await run_session_store_conformance(lambda: ClaudeSessionStore(transcripts(core), "own"))  # type: ignore[arg-type,return-value]


async def test_another_machine_names_the_project_otherwise(core: Core) -> None:
    claim, session_id = begun(core)
    same = SessionTranscripts(core.database, claim.lease, session_id)
    one, other = (ClaudeSessionStore(same, name) for name in ("-one-work", "-other-work"))
    await one.append({"project_key": "-one-work", "session_id": "c1"}, [{"type": "user"}])
    key = {"project_key": "-other-work", "session_id": "c1"}
    assert await other.load(key) == [{"type": "user"}]  # type: ignore[arg-type]


async def test_entries_sent_again_are_stored_once(core: Core) -> None:
    mine = transcripts(core)
    first = {"type": "user", "uuid": "1"}
    await mine.append(MAIN, [first, {"type": "mode"}])
    await mine.append(MAIN, [first, {"type": "mode"}, {"type": "user", "uuid": "2"}])
    assert [each.get("uuid") for each in await mine.load(MAIN)] == ["1", None, None, "2"]


async def test_secrets_are_masked(core: Core) -> None:
    masked = MaskedTranscripts(mine := transcripts(core), Masker(["hunter2-hunter2"]))
    await masked.append(MAIN, [{"type": "user", "text": "It is hunter2-hunter2."}])
    assert "hunter2" not in str(await mine.load(MAIN))
    assert await masked.load(MAIN) == await mine.load(MAIN)


async def test_who_has_lost_the_attempt_adds_nothing(core: Core) -> None:
    claim, session_id = begun(core)
    lost = Lease(claim.lease.execution_id, claim.lease.attempt, uuid4())
    for lease, owner in ((lost, session_id), (claim.lease, uuid4())):
        with pytest.raises(LeaseLostError):
            await SessionTranscripts(core.database, lease, owner).append(MAIN, [{"type": "user"}])
    assert core.count("transcript_entries") == 0


async def test_a_deleted_session_has_no_conversation(core: Core) -> None:
    claim, session_id = begun(core)
    mine = SessionTranscripts(core.database, claim.lease, session_id)
    await mine.append(MAIN, [{"type": "user"}])
    with core.database.transaction() as connection:
        sessions.delete(connection, session_id)
    assert await mine.load(MAIN) == []
