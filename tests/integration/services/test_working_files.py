"""Working directories: what one machine saves another one restores, and nothing is half saved."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from celeriac.adapters.object_store import ObstoreObjects
from celeriac.db import artifacts, sessions, transcripts, workspaces
from celeriac.db.retention import delete_executions
from celeriac.domain.artifacts import ArtifactOwner, object_key
from celeriac.domain.errors import LeaseLostError, ObjectMissingError, ObjectStoreError
from celeriac.domain.executions.model import Claim, Completed
from celeriac.domain.sessions import TranscriptKey
from celeriac.kit.files import Folder, OpenFile, remove_tree
from celeriac.services.files import working
from celeriac.services.files.working import WorkingFiles
from tests.support.core import Core
from tests.support.objects import BOUNDS, Machine, files_in, written
from tests.support.retention import POLICY, make_ids_old, pass_days, places_in, retention
from tests.support.waiting import wait_until

DAY = 86_400


def stored(tmp_path: Path) -> set[bytes]:
    """The contents in the store."""
    return {each.read_bytes() for each in (tmp_path / "objects").rglob("*") if each.is_file()}


def test_another_machine_gets_the_directory_as_it_was(
    core: Core, one: Machine, other: Machine, tmp_path: Path
) -> None:
    claim = core.running()
    work = one.directory(claim)
    written(work, plain="1", twice="same", again="same")
    (work / "deep" / "empty").mkdir(parents=True)
    (work / "deep" / "run.sh").write_text("#!/bin/sh\n")
    (work / "deep" / "run.sh").chmod(0o755)
    (work / "deep" / "up").symlink_to("../plain")
    (work / "large").write_bytes(os.urandom(working._IN_MEMORY + 5))
    os.mkfifo(work / "pipe")
    one.save(claim)
    assert stored(tmp_path) == {b"1", b"same", b"#!/bin/sh\n", (work / "large").read_bytes()}
    there = other.restore(claim)
    assert (there / "large").read_bytes() == (work / "large").read_bytes()
    assert (there / "deep" / "empty").is_dir()
    assert (there / "deep" / "up").readlink() == Path("../plain")
    assert stat.S_IMODE((there / "deep" / "run.sh").stat().st_mode) == 0o755
    assert (there / "again").read_text() == "same"
    assert (there / "plain").stat().st_mtime == pytest.approx((work / "plain").stat().st_mtime)
    assert not (there / "pipe").exists()


def test_each_machine_begins_with_the_last_version(
    core: Core, one: Machine, other: Machine
) -> None:
    claim = core.running()
    written(one.directory(claim), a="1", b="1")
    one.save(claim)
    there = other.restore(claim)
    (there / "a").write_text("22")
    (there / "b").unlink()
    other.save(claim)
    (one.directory(claim) / "stale").touch()
    back = one.restore(claim)
    assert {each.name: each.read_text() for each in back.iterdir()} == {"a": "22"}
    (back / "unsaved").touch()  # as after a crash of the attempt: it continues where it was
    assert (one.restore(claim) / "unsaved").exists()


def test_what_has_not_changed_is_neither_read_nor_stored_again(
    core: Core, one: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = core.running()
    written(one.directory(claim), a="1", b="1")
    one.save(claim)
    version = _version(core, claim)
    read: list[str] = []
    original = Folder.open

    def noted(self: Folder, path: str) -> OpenFile:
        read.append(path)
        return original(self, path)

    monkeypatch.setattr(Folder, "open", noted)
    one.settle(claim)
    one.save(claim)
    read.clear()  # they may have changed in the same moment as the first save began
    one.save(claim)
    assert (read, _version(core, claim)) == ([], version)
    written(one.directory(claim), b="2 longer")
    one.save(claim)
    assert set(read) == {"b"}
    assert _version(core, claim) != version


def test_a_save_that_fails_leaves_the_version_before(
    core: Core, one: Machine, other: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = core.running()
    written(one.directory(claim), a="1")
    one.save(claim)

    def refuse(self: ObstoreObjects, key: str, body: object) -> None:
        raise ObjectStoreError("The store is full.")

    written(one.directory(claim), a="2", b="2")
    with monkeypatch.context() as patched:
        patched.setattr(ObstoreObjects, "put", refuse)
        with pytest.raises(ObjectStoreError):
            one.save(claim)
    assert (other.restore(claim) / "a").read_text() == "1"
    one.save(claim)
    assert sorted(each.name for each in other.restore(claim).iterdir()) == ["a", "b"]


def test_a_directory_that_is_not_one_any_more_is_an_error(
    core: Core, one: Machine, other: Machine
) -> None:
    claim = core.running()
    written(one.directory(claim), a="1")
    one.save(claim)
    remove_tree(one.directory(claim))
    one.save(claim)
    one.directory(claim).symlink_to(one.work)
    with pytest.raises(NotADirectoryError):
        one.save(claim)
    assert (other.restore(claim) / "a").read_text() == "1"


def test_who_has_lost_the_attempt_saves_nothing(core: Core, one: Machine, other: Machine) -> None:
    claim = core.running()
    written(one.directory(claim), a="1")
    lost = replace(claim, lease=replace(claim.lease, token=uuid4()))
    with pytest.raises(LeaseLostError):
        one.save(lost)
    assert not other.restore(claim).exists()
    core.end(claim, Completed(None))
    with pytest.raises(LeaseLostError):
        one.save(claim)


def test_bytes_that_are_not_those_that_were_saved_are_refused(
    core: Core, one: Machine, other: Machine, tmp_path: Path
) -> None:
    claim = core.running()
    written(one.directory(claim), a="1")
    one.save(claim)
    [content] = [each for each in (tmp_path / "objects").rglob("*") if each.is_file()]
    content.write_text("other")
    with pytest.raises(ObjectMissingError, match="other bytes"):
        other.restore(claim)
    assert not other.directory(claim).exists()
    content.unlink()
    with pytest.raises(ObjectMissingError):
        other.restore(claim)


def test_what_exceeds_the_bounds_is_left_out_and_counted(
    core: Core, tmp_path: Path, one: Machine
) -> None:
    claim = core.running()
    directory = one.directory(claim)
    written(directory, a="123", b="1234", c="123", d="1")
    bounds = replace(BOUNDS, file_bytes=3, bytes=5)
    owner = ArtifactOwner(claim.lease.execution_id, is_session=False)
    files = files_in(core.database, tmp_path, bounds)
    files.save(claim.lease, claim.workspace_id, owner, Folder(directory))
    with core.database.autocommit() as connection:
        kept = artifacts.files(connection, owner.id, after=None, limit=9)
        found = artifacts.file_set(connection, owner.id)
    assert [each.path for each in kept] == ["a", "d"]
    assert found is not None
    assert found.skipped == 2


# what nobody names is deleted


@pytest.fixture
def saved(core: Core, tmp_path: Path, one: Machine) -> Claim:
    claim = core.running()
    written(one.directory(claim), a="mine", b="shared")
    one.save(claim)
    second = core.running()
    written(one.directory(second), b="shared")
    one.save(second)
    core.end(claim, Completed(None))
    return claim


def _age(core: Core, days: float) -> None:
    with core.database.transaction() as connection:
        for statement in (
            "UPDATE executions SET completed_at = completed_at - make_interval(secs => :s)",
            "UPDATE file_sets SET saved_at = saved_at - make_interval(secs => :s)",
            "UPDATE objects SET unnamed_since = unnamed_since - make_interval(secs => :s)",
        ):
            connection.execute(text(statement), {"s": days * DAY})


def _version(core: Core, claim: Claim) -> UUID:
    with core.database.autocommit() as connection:
        found = artifacts.file_set(connection, claim.lease.execution_id)
    assert found is not None
    return found.version


def test_files_go_after_their_time_and_then_objects_that_nothing_names(
    core: Core, tmp_path: Path, saved: Claim
) -> None:
    places = places_in(tmp_path)
    policy = replace(POLICY, executions=0)
    retention(core, places, policy)
    assert stored(tmp_path) == {b"mine", b"shared"}
    _age(core, 11)
    retention(core, places, policy)
    with core.database.autocommit() as connection:
        assert artifacts.file_set(connection, saved.lease.execution_id) is None
        assert artifacts.entries(connection, saved.lease.execution_id) == []
    assert stored(tmp_path) == {b"mine", b"shared"}, "within the grace time"
    _age(core, 2)
    retention(core, places, policy)
    assert stored(tmp_path) == {b"shared"}
    assert (core.count("objects"), core.count("file_sets"), core.count("artifacts")) == (1, 1, 1)


def test_a_deleted_execution_has_no_files(core: Core, tmp_path: Path, saved: Claim) -> None:
    with core.database.transaction() as connection:
        assert delete_executions(connection, [saved.lease.execution_id]) == 1
    with core.database.autocommit() as connection:
        assert artifacts.file_set(connection, saved.lease.execution_id) is None
    retention(core, places_in(tmp_path), POLICY)
    assert (core.count("file_sets"), core.count("artifacts")) == (1, 1)


def test_who_saves_what_is_being_deleted_uploads_it_again(
    core: Core, objects: ObstoreObjects, saved: Claim
) -> None:
    with core.database.transaction() as connection:
        core_objects = artifacts.entries(connection, saved.lease.execution_id)
        artifacts.expire(connection, seconds=0, limit=9)
        artifacts.purge(connection, limit=99)
    mine = next(each.digest for each in core_objects if each.path == "a")
    assert mine is not None
    workspace = saved.workspace_id
    with core.database.transaction() as connection:
        marked = artifacts.mark_objects(connection, seconds=0, limit=9).unreferenced
    with core.database.transaction() as connection:
        assert artifacts.claim_objects(connection, workspace, {mine: 4}) == {mine}
    with core.database.transaction() as connection:
        young = artifacts.unreferenced_objects(connection, marked, seconds=60)
        assert young == [], "claimed just now"
        [found] = artifacts.unreferenced_objects(connection, marked, seconds=0)
        objects.delete([object_key(*found), object_key(workspace, bytes(32))])
        artifacts.forget_objects(connection, [found])
    with core.database.transaction() as connection:
        assert not artifacts.name_objects(connection, workspace, {mine}), "it must be uploaded"


def test_objects_that_others_still_name_hide_none_that_nothing_names(
    core: Core, tmp_path: Path, one: Machine
) -> None:
    """A round examines batch after batch, also where a whole batch is to stay."""
    kept, gone = core.running(), core.running()
    for number in range(5):
        written(one.directory(kept), **{f"f{number}": f"kept {number}"})
    written(one.directory(gone), last="gone")
    one.save(kept)
    one.save(gone)
    core.end(gone, Completed(None))
    with core.database.transaction() as connection:
        delete_executions(connection, [gone.lease.execution_id])
        artifacts.purge(connection, limit=99)
        connection.execute(
            text(
                "UPDATE objects o SET unnamed_since = now() - interval '3 days'"
                " FROM artifacts a WHERE a.digest = o.digest"
            )
        )
    _age(core, 2)
    retention(core, places_in(tmp_path))  # two at a time
    assert stored(tmp_path) == {f"kept {number}".encode() for number in range(5)}
    assert core.count("objects") == 5


def test_saves_that_exchange_their_content_do_not_wait_for_each_other(core: Core) -> None:
    """Each names what the other one names no longer: in turn, they would lock each other out."""
    workspace = core.running().workspace_id
    first, second = sorted((sha256(b"1").digest(), sha256(b"2").digest()))
    with core.database.transaction() as connection:
        artifacts.claim_objects(connection, workspace, {first: 1, second: 1})

    def other() -> bool:
        with core.database.transaction() as beside:
            return artifacts.name_objects(beside, workspace, {second}, {first})

    lock = text("SELECT FROM objects WHERE digest = :digest FOR UPDATE NOWAIT")
    with ThreadPoolExecutor(1) as threads:
        with core.database.transaction() as connection:
            connection.execute(lock, {"digest": first})
            waiting = threads.submit(other)
            wait_until(lambda: _waits_for_lock(core), "the other save waits")
            # it has not locked the object that it names before the one that it waits for
            connection.execute(lock, {"digest": second})
        assert waiting.result(timeout=20)
    with core.database.autocommit() as connection:
        query = text("SELECT digest FROM objects WHERE unnamed_since IS NULL")
        assert [bytes(each) for each in connection.execute(query).scalars()] == [second]


def _waits_for_lock(core: Core) -> bool:
    with core.database.autocommit() as connection:
        query = text(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(connection.execute(query).scalar_one())


def test_a_deleted_workspace_leaves_no_files_in_the_end(
    core: Core, tmp_path: Path, one: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_ids_old(monkeypatch)
    claim = core.running()
    with core.database.autocommit() as connection:
        session_id = sessions.begin(connection, claim.lease, runner="claude", parent_id=None)
    assert session_id is not None
    written(one.directory(claim), a="of an execution")
    one.save(claim)
    written(one.work / str(session_id), b="of a session")
    owner = ArtifactOwner(session_id, is_session=True)
    one.files.save(claim.lease, claim.workspace_id, owner, Folder(one.work, str(session_id)))
    key = TranscriptKey("c1")
    with core.database.autocommit() as connection:
        for number in range(5):
            assert transcripts.append(
                connection, claim.lease, session_id, key, entry_ids=[str(number)], bodies=["{}"]
            )
    core.end(claim, Completed(None))
    with core.database.transaction() as connection:
        assert workspaces.lock(connection, claim.workspace_id)
        workspaces.end(connection, claim.workspace_id)
    places = places_in(tmp_path)
    tables = ("file_sets", "artifacts", "objects", "transcript_entries", "sessions", "executions")
    before = [core.count(each) for each in tables]
    assert before == [2, 2, 2, 5, 1, 1]
    for days in (0, 25, 2, 40, 40):
        _age(core, days)
        pass_days(core, places, days)
        retention(core, places)
    assert [core.count(each) for each in tables] == [0] * len(tables)
    assert stored(tmp_path) == set()


# markers on a machine


def test_markers_go_with_the_directories_that_they_describe(
    core: Core, tmp_path: Path, objects: ObstoreObjects
) -> None:
    places = places_in(tmp_path)
    files = WorkingFiles(core.database, objects, places.saved, BOUNDS)
    claims = [core.running() for _ in range(2)]
    for claim in claims:
        directory = places.workdir(claim.lease.execution_id)
        directory.mkdir(parents=True)
        written(directory, a="1")
        owner = ArtifactOwner(claim.lease.execution_id, is_session=False)
        files.save(claim.lease, claim.workspace_id, owner, Folder(directory.parent, directory.name))
    here, gone = (claim.lease.execution_id for claim in claims)
    remove_tree(places.workdir(gone))
    young, old = (places.saved / f"{here}.{uuid4().hex}" for _ in range(2))
    for left in (young, old):
        left.mkdir()
        written(left, part="of a restore")
    then = old.stat().st_mtime - 2 * DAY
    os.utime(old, (then, then))
    (places.saved / "notes.txt").touch()
    retention(core, places)
    assert {each.name for each in places.saved.iterdir()} == {str(here), young.name, "notes.txt"}
