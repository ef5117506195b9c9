"""The sweep of a worker's home: old files of this machine go, and nothing that is needed here."""

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from structlog.testing import capture_logs

from celeriac.domain.executions.model import Completed
from celeriac.services.operations import sweep as sweeping
from celeriac.services.operations.home_files import HomeFiles
from celeriac.services.operations.retention import RetentionPolicy
from celeriac.services.operations.sweep import Sweep
from celeriac.services.storage_paths import StoragePaths
from celeriac.settings import Settings
from celeriac.wiring.core import places
from celeriac.wiring.worker import build_sweep
from tests.support.core import Core
from tests.support.retention import (
    DAY,
    POLICY,
    completed,
    leave_files,
    make_ids_old,
    pass_days,
    places_in,
    retention,
    with_session,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("F26")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    make_ids_old(monkeypatch)
    monkeypatch.setattr(sweeping, "_REST_SECONDS", 0)


@pytest.fixture
def keepers(tmp_path: Path) -> StoragePaths:
    return places_in(tmp_path / "keeper")


@pytest.fixture
def home(tmp_path: Path) -> StoragePaths:
    """The worker's."""
    (tmp_path / "worker" / "v").mkdir(parents=True)
    return places_in(tmp_path / "worker")


def lock_of(home: StoragePaths) -> Path:
    return home.saved.parent / "sweep.lock"


def sweep_of(
    core: Core, home: StoragePaths, policy: RetentionPolicy = POLICY, *, every: float = 0
) -> Sweep:
    @contextmanager
    def open_files(rest: Callable[[], bool]) -> Iterator[HomeFiles]:
        yield HomeFiles(
            core.database,
            home,
            executions=policy.executions,
            files=policy.files,
            logs=policy.logs,
            batch=2,
            rest=rest,
        )

    return Sweep(open_files, lock_of(home), first=0, every=every)


def leave_session(home: StoragePaths, session_id: UUID) -> None:
    (home.session(session_id) / "work").mkdir(parents=True)
    (home.saved / str(session_id)).write_text("1 1")


def leave(home: StoragePaths, execution_id: UUID) -> None:
    leave_files(home, execution_id)
    (home.saved / str(execution_id)).write_text("1 1")


def age(path: Path, days: float) -> None:
    then = time.time() - days * DAY
    os.utime(path, (then, then))


def owners(home: StoragePaths) -> set[UUID]:
    """Whose directories, logs and markers are in a home."""
    logs = {path.name.removeprefix("task-execution-")[:-4] for path in home.logs.glob("*.log")}
    found = [*home.sessions.glob("*"), *home.workdirs.glob("*"), *home.saved.glob("*")]
    return {UUID(name) for name in logs | {path.name for path in found}}


def test_a_workers_home_keeps_what_retention_keeps(
    core: Core, keepers: StoragePaths, home: StoragePaths
) -> None:
    old = [completed(core, keepers) for _ in range(5)]
    nobody = uuid4()
    for each in (*old, nobody):
        leave(home, each)
    idle = [with_session(core, keepers) for _ in range(5)]
    strange = uuid4()
    for each in (*idle, strange):
        leave_session(home, each)
    age(home.session(strange), 2)
    pass_days(core, keepers, 21)
    pass_days(core, home, 0)
    used, fresh, running = with_session(core, keepers), uuid4(), core.running()
    waiting = core.waiting()
    leave_session(home, used)
    leave_session(home, fresh)
    for each in (running.lease.execution_id, waiting):
        leave(home, each)
    for path in (*home.workdirs.glob("*"), *home.logs.glob("*")):
        age(path, 1_000)

    retention(core, keepers)
    assert owners(home) >= {*old, *idle}, "the keeper does not reach another machine"
    assert sweep_of(core, home)() == 2 * 5 + 2 + 5 + 1 + 5 + 1 + 5 + 1

    kept = {used, fresh, running.lease.execution_id, waiting}
    assert owners(home) == kept
    assert (home.workdir(waiting) / "out.txt").exists()
    assert sweep_of(core, home)() == 0
    core.end(running, Completed(1))
    assert sweep_of(core, home)() == 1, "only the log, which nobody has written for so long"
    assert home.workdir(running.lease.execution_id).exists()


def test_directories_of_deleted_executions_go_though_files_are_kept(
    core: Core, keepers: StoragePaths, home: StoragePaths
) -> None:
    for_ever = replace(POLICY, files=0, logs=0)
    execution_id = completed(core, keepers)
    leave(home, execution_id)
    pass_days(core, home, 31)
    core.execute("UPDATE executions SET completed_at = now()")
    assert sweep_of(core, home, for_ever)() == 0
    pass_days(core, keepers, 31)
    retention(core, keepers, for_ever)
    assert sweep_of(core, home, for_ever)() == 2
    assert not home.workdir(execution_id).exists()
    assert home.log_file(execution_id).exists()
    leave_files(home, uuid4())
    pass_days(core, home, 1_000)
    nothing = replace(for_ever, executions=0)
    assert sweep_of(core, home, nothing)() == 0


def test_one_process_sweeps_a_home_at_a_time_and_not_again_at_once(
    core: Core, home: StoragePaths
) -> None:
    leave(home, uuid4())
    pass_days(core, home, 31)
    with lock_of(home).open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert sweep_of(core, home, every=3_600)() is None
    assert sweep_of(core, home, every=3_600)() == 3
    leave(home, uuid4())
    pass_days(core, home, 31)
    assert sweep_of(core, home, every=3_600)() is None, "another worker has just done it"
    age(lock_of(home), 1)
    assert sweep_of(core, home, every=3_600)() == 3


def test_a_marker_stays_while_a_restore_replaces_directories(
    core: Core, home: StoragePaths
) -> None:
    (home.saved / str(uuid4())).write_text("1 1")
    restoring = os.open(home.saved, os.O_RDONLY)
    try:
        fcntl.flock(restoring, fcntl.LOCK_EX)
        assert sweep_of(core, home)() == 0
    finally:
        os.close(restoring)
    assert sweep_of(core, home)() == 1


def test_a_worker_sweeps_its_home_by_its_settings(settings: Settings) -> None:
    home = places(settings)
    old, young = uuid4(), uuid4()
    for each, days in ((old, 3), (young, 1)):
        home.workdir(each).mkdir(parents=True)
        age(home.workdir(each), days)
    kept = settings.retention.model_copy(update={"files_days": 2.0})
    sweep = build_sweep(settings.model_copy(update={"retention": kept}))
    assert sweep() == 1
    assert list(home.workdirs.iterdir()) == [home.workdir(young)]
    assert sweep() is None, "the next round is not due"


def test_a_failed_round_is_logged_and_the_thread_continues(core: Core, home: StoragePaths) -> None:
    nobody = uuid4()
    leave(home, nobody)
    pass_days(core, home, 31)
    lock_of(home).mkdir()
    with capture_logs() as logs:
        sweep = sweep_of(core, home, every=0.02)
        sweep.start()
        wait_until(lambda: len(logs) > 1, "rounds fail")
        lock_of(home).rmdir()
        wait_until(lambda: not home.workdir(nobody).exists(), "a round succeeds")
        sweep.stop()
    assert logs[0]["event"] == "worker.thread_failed"
    wait_until(
        lambda: all(each.name != "sweep" for each in threading.enumerate()), "the thread ends"
    )


def test_a_stopped_sweep_removes_no_more_than_its_batch(core: Core, home: StoragePaths) -> None:
    for _ in range(5):
        leave_session(home, uuid4())
    for path in home.sessions.iterdir():
        age(path, 2)
    sweep = sweep_of(core, home)
    sweep.stop()
    assert sweep() == 0
    assert len(list(home.sessions.iterdir())) == 5
    assert not lock_of(home).read_bytes(), "the round is not counted as done"
