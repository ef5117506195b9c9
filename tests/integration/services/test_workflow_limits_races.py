"""Limits of workflows under races and faults: never more than may run, and nobody hangs."""

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from celeriac.db.engine import Database
from celeriac.db.workflows import limits as limit_rows
from celeriac.domain.errors import DatabaseUnavailableError, LimitReachedError
from celeriac.domain.executions.model import Claim, Idempotency
from celeriac.domain.limit_policies import LimitCount, LimitPolicy
from celeriac.domain.limits import KeyedLimit
from celeriac.domain.workflows.states import RunStatus
from celeriac.kit.ids import uuid7
from celeriac.services.workflows.limits import admit, refuse
from celeriac.services.workflows.runs import StartRequest
from tests.support.consistency import contradictions
from tests.support.core import LEASE_SECONDS, Core
from tests.support.forgetful import ForgetfulDatabase
from tests.support.together import together
from tests.support.waiting import wait_until
from tests.support.workflows import FAILS, Flows

pytestmark = pytest.mark.requirement("F13")

KEYS = ("x", "y")
MAX = 2
RUNS_EACH = 8
STARTERS = 3


def limited(flows: Flows, policy: str, *, count: str = "running", ask: bool = False) -> UUID:
    """Define a workflow of two steps, perhaps with a question between, with a limit by key."""
    steps: dict[str, Any] = {"a": {"task": "work", "retry": 0, "with": {"key": "${{ input.key }}"}}}
    if ask:
        steps["ask"] = {"approve": "Go on?", "needs": ["a"]}
    steps["b"] = {
        "task": "work", "needs": ["ask" if ask else "a"], "retry": 0,
        "with": {"key": "${{ input.key }}"},
    }  # fmt: skip
    limits = [
        {"key": "input.key", "max": MAX, "policy": policy, "count": count},
        {"key": "'all'", "max": 3},
    ]
    return flows.define(f"w-{policy}-{ask}", steps, input={"key": "string"}, limits=limits)


class Watched:
    """Workers that note which runs are between their first and their last execution."""

    def __init__(self, flows: Flows) -> None:
        self.flows = flows
        self.started: list[UUID] = []
        self.most: dict[str, int] = defaultdict(int)
        self._inside: dict[str, set[UUID]] = defaultdict(set)
        self._all_started = threading.Event()
        self._lock = threading.Lock()

    def start_all(self, workflow: UUID) -> None:
        def start(seed: int) -> list[UUID]:
            chance = Random(seed)
            return [flows.start(workflow, key=chance.choice(KEYS)) for _ in range(RUNS_EACH)]

        flows = self.flows
        for found in together([partial(start, seed) for seed in range(STARTERS)]):
            self.started += found
        self._all_started.set()

    def work(self) -> None:
        while not self._over():
            claim = self.flows.take()
            if claim is None:
                self.flows.advance.waiting(100)
                continue
            self._enter(claim)
            self.flows.end(claim)

    def _over(self) -> bool:
        return self._all_started.is_set() and all(
            self.flows.ran(run_id).status.terminal for run_id in self.started
        )

    def _enter(self, claim: Claim) -> None:
        assert claim.run_id is not None
        last = self.flows.core.get(claim.lease.execution_id).step == "b"
        with self._lock:
            for key in (claim.variables["key"], "all"):
                inside = self._inside[key]
                inside.add(claim.run_id)
                self.most[key] = max(self.most[key], len(inside))
                if last:
                    inside.discard(claim.run_id)


@pytest.mark.failure("Q1", "Q5")
def test_q1_q5_starts_and_ends_that_race_never_run_more_and_leave_nobody_waiting(
    core: Core,
) -> None:
    core.worker()
    watched = Watched(Flows(core))
    workflow = limited(watched.flows, "queue")

    together([lambda: watched.start_all(workflow), watched.work, watched.work, watched.work])

    found = [watched.flows.ran(run_id).status for run_id in watched.started]
    assert found == [RunStatus.COMPLETED] * STARTERS * RUNS_EACH
    assert all(watched.most[key] <= MAX for key in KEYS)
    assert watched.most["all"] <= 3
    watched.flows.assert_counted()
    assert core.count("run_limits") == 0


_WAITS_FOR_A_KEY = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


def test_who_gives_a_slot_waits_until_who_gave_the_last_one_has_committed(core: Core) -> None:
    flows = Flows(core)
    workflow = flows.define("w", {"a": {"task": "work"}}, limits=[{"key": "'k'", "max": 1}])
    first, *waiting = (flows.start(workflow) for _ in range(3))
    core.execute("DELETE FROM run_limits WHERE run_id = :id", id=first)
    found: list[list[str] | None] = []

    def give() -> None:
        with core.database.transaction() as connection:
            found.append(admit(connection, waiting[1]))

    thread = threading.Thread(target=give)
    with core.database.transaction() as earlier:
        assert admit(earlier, waiting[0]) == []
        thread.start()
        with core.database.autocommit() as connection:
            wait_until(
                lambda: found or connection.execute(text(_WAITS_FOR_A_KEY)).scalar_one(),
                "the other one waits",
            )
    thread.join(60)
    assert found == [["k"]], "it has seen that the slot is given"


def test_who_is_refused_waits_until_who_came_before_has_committed(core: Core) -> None:
    flows = Flows(core)
    limits = [{"key": "'k'", "max": 1, "policy": "cancel_new"}]
    workflow = flows.define("w", {"a": {"task": "work"}}, limits=limits)
    wanted = [KeyedLimit("k", 1, LimitPolicy.CANCEL_NEW, LimitCount.RUNNING)]
    found: list[object] = []

    def start() -> None:
        try:
            found.append(flows.start(workflow))
        except LimitReachedError as error:
            found.append(error.details["run_id"])

    thread = threading.Thread(target=start)
    before = uuid7()
    with core.database.transaction() as earlier:
        refuse(earlier, core.actor.workspace_id, wanted)
        limit_rows.add(earlier, before, core.actor.workspace_id, wanted, priority=None)
        thread.start()
        with core.database.autocommit() as connection:
            wait_until(
                lambda: found or connection.execute(text(_WAITS_FOR_A_KEY)).scalar_one(),
                "the other one waits",
            )
    thread.join(60)
    assert found == [str(before)]


@pytest.mark.parametrize("policy", ["cancel_new", "keep_latest", "cancel_running"])
def test_policies_hold_for_starts_at_the_same_instant(core: Core, policy: str) -> None:
    flows = Flows(core)
    workflow = limited(flows, policy)

    def start() -> UUID | None:
        try:
            return flows.start(workflow, key="x")
        except LimitReachedError:
            return None

    runs = [run for run in together([start] * 6) if run is not None]
    flows.advance.waiting(10)
    found = sorted((flows.ran(run).run for run in runs), key=lambda each: each.id)
    live = [each for each in found if not each.status.terminal]
    match policy:
        case "cancel_new":
            assert len(runs) == len(live) == MAX
        case "keep_latest":
            assert [each.status.value for each in live].count("running") == MAX
            assert live[-1].id == found[-1].id
            assert len(live) == MAX + 1
        case _:
            assert [each.id for each in live if each.cancel_requested_at is None] == [
                each.id for each in found[-MAX:]
            ]
    flows.drive()
    assert all(flows.ran(run).status.terminal for run in runs)
    flows.assert_counted()
    assert core.count("run_limits") == 0


@pytest.fixture
def forgetful(database: Database) -> Iterator[ForgetfulDatabase]:
    """A database that loses answers."""
    forgetful = ForgetfulDatabase(database)
    yield forgetful
    forgetful.close()


class FaultyLimits:
    """Random acts on limited runs; each may be cut off after any of its transactions."""

    def __init__(self, database: ForgetfulDatabase, seed: int, policies: tuple[str, str]) -> None:
        self.flows = Flows(Core(database))
        self.chance = Random(seed)
        self._database = database
        self._workflows = [
            limited(self.flows, policy, ask=ask, count=self.chance.choice(["running", "active"]))
            for policy, ask in zip(policies, (True, False), strict=True)
        ]
        self._claims: list[Claim] = []
        self.runs: list[UUID] = []

    def act(self) -> None:
        """Do one thing, perhaps not to its end."""
        acts = [self._start] * 3 + [self._work] * 6 + [self._cancel, self._answer, self._keep]
        cut = self.chance.random() < 0.4
        if cut:
            self._database.spared = self.chance.randrange(12)
            self._database.losses = 1
        try:
            self.chance.choice(acts)()
        except (DatabaseUnavailableError, LimitReachedError):
            pass
        finally:
            self._database.spared = self._database.losses = 0
        self.assert_bounded()

    def assert_bounded(self) -> None:
        """Fail if a key has more runs than may run, or the tables contradict each other."""
        with self._database.autocommit() as connection:
            broken = contradictions(connection)
        assert not broken

    def _start(self) -> None:
        request = StartRequest(
            self.chance.choice(self._workflows),
            {"key": self.chance.choice(KEYS)},
            idempotency=Idempotency(str(len(self.runs)), "one"),
        )
        with suppress(DatabaseUnavailableError):  # it asks again, with the same key
            self.flows.runs.start(self.flows.core.actor, request)
        self._database.spared = self._database.losses = 0
        self.runs.append(self.flows.runs.start(self.flows.core.actor, request).run_id)

    def _work(self) -> None:
        while (claim := self.flows.take()) is not None:
            self._claims.append(claim)
        if self._claims:
            claim = self._claims.pop(self.chance.randrange(len(self._claims)))
            if self.chance.random() < 0.1:
                return  # its worker has died
            fails = self.chance.random() < 0.1
            self.flows.end(claim, lambda _name, _given: FAILS if fails else None)

    def _cancel(self) -> None:
        if self.runs:
            self.flows.runs.cancel(self.flows.core.actor, self.chance.choice(self.runs))

    def _answer(self) -> None:
        asked = self.flows.asked()
        if asked:
            run_id = self.chance.choice(asked).run_id
            assert run_id is not None
            self.flows.answer(run_id, approved=self.chance.random() < 0.8)

    def _keep(self) -> None:
        core = self.flows.core
        core.pass_time(LEASE_SECONDS + 1)
        core.rescue()
        core.resend()
        core.execute("UPDATE step_runs SET due_at = due_at - interval '1 minute'")
        self.flows.advance.due(100)
        self.flows.advance.waiting(100)
        core.dispatch.send_due()

    def to_the_end(self) -> None:
        """Let the keeper and workers go on without faults; fail if a run hangs."""
        live: list[UUID] = []
        for _ in range(40):
            live = [run for run in self.runs if not self.flows.ran(run).status.terminal]
            if not live:
                return
            self._keep()
            self._answer()
            for _ in range(5):
                self._work()
        statuses = [self.flows.ran(run).statuses for run in live]
        pytest.fail(f"runs hang: {statuses}")


@pytest.mark.failure("Q3", "Q4")
@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a smaller example takes minutes to find
)
@given(
    seed=st.integers(0, 2**32),
    policies=st.tuples(*[st.sampled_from(["queue", "queue", "keep_latest", "cancel_running"])] * 2),
)
def test_q3_q4_every_slot_comes_back_whoever_dies_between_commits(
    forgetful: ForgetfulDatabase, seed: int, policies: tuple[str, str]
) -> None:
    faulty = FaultyLimits(forgetful, seed, policies)
    for _ in range(60):
        faulty.act()
    faulty.to_the_end()
    faulty.flows.assert_counted()
    assert faulty.flows.core.count("run_limits") == 0
