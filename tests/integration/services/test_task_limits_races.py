"""Limits by key of tasks when much happens at once, and when a process dies in between."""

import os
import threading
from collections import defaultdict
from functools import partial
from random import Random
from uuid import UUID, uuid4

import pytest

from celeriac.domain.executions.model import (
    Claim,
    Completed,
    Failure,
    HandedBack,
    Retry,
    Stopped,
    SubmitRequest,
)
from celeriac.domain.executions.states import LIVE, Held, Status
from celeriac.domain.tasks import DEFAULT_QUEUE, TaskSpec
from celeriac.services.catalog.specs import SpecCache
from celeriac.services.executions.submit import Submit
from tests.support.core import LIMIT, Core, report_worker
from tests.support.together import together

pytestmark = pytest.mark.requirement("F13")

FAILURE = Failure("agent_failed", "it failed", {"type": "Error", "traceback": "", "attempt": 1})
KEYS = ("a", "b", "c")
MAX = 2
ALL = 4
STARTERS = 3
EACH = 12
RACES = int(os.environ.get("RACES", "30"))
"""More by `make races`."""


def limited(core: Core) -> Core:
    limits = [{"key": "variables.key", "max": MAX}, {"key": "'all'", "max": ALL}]
    made = Core(core.database, TaskSpec.model_validate({"concurrency": limits}))
    report_worker(made, 8, DEFAULT_QUEUE)
    return made


def request(core: Core, key: str) -> SubmitRequest:
    return SubmitRequest(task_id=core.task, variables={"key": key})


class Watched:
    """Executions that several threads submit and run, and how many of a key ran at once."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.submitted: list[UUID] = []
        self.most: dict[str, int] = defaultdict(int)
        self._inside: dict[str, int] = defaultdict(int)
        self._all_submitted = threading.Event()
        self._lock = threading.Lock()

    def submit_all(self) -> None:
        def submit(seed: int) -> list[UUID]:
            chance = Random(seed)
            return [
                self.core.submit(
                    self.core.actor, request(self.core, chance.choice(KEYS))
                ).execution_id
                for _ in range(EACH)
            ]

        for found in together([partial(submit, seed) for seed in range(STARTERS)]):
            self.submitted += found
        self._all_submitted.set()

    def work(self, seed: int) -> None:
        chance = Random(seed)
        claiming = self.core.claiming()
        while not self._over():
            envelope = self.core.queue.take(DEFAULT_QUEUE)
            if envelope is None:
                self.core.dispatch.release_due()
                self.core.limits.some(LIMIT)
                self.core.dispatch.send_due()
                continue
            claim = claiming(envelope.message, uuid4())
            if claim is not None:
                self._run(claim, again=chance.random() < 0.3)

    def _over(self) -> bool:
        return self._all_submitted.is_set() and all(
            self.core.status(each).terminal for each in self.submitted
        )

    def _run(self, claim: Claim, *, again: bool) -> None:
        keys = (claim.variables["key"], "all")
        with self._lock:
            for key in keys:
                self._inside[key] += 1
                self.most[key] = max(self.most[key], self._inside[key])
        with self._lock:
            for key in keys:
                self._inside[key] -= 1
        retried = again and claim.lease.attempt == 1
        self.core.end(claim, Retry(FAILURE, 0.0) if retried else Completed(1))
        self.core.limits.of_keys(claim.workspace_id, claim.limit_keys or ())


@pytest.mark.failure("Q1", "Q5")
def test_submissions_and_ends_that_race_never_run_more_and_leave_nobody_waiting(
    core: Core,
) -> None:
    watched = Watched(limited(core))
    watched.core.worker()
    works = [partial(watched.work, seed) for seed in range(3)]

    together([watched.submit_all, *works])

    assert len(watched.submitted) == STARTERS * EACH
    assert all(watched.most[key] <= MAX for key in KEYS)
    assert watched.most["all"] <= ALL
    assert core.count("execution_limits") == 0
    core.assert_consistent()


@pytest.mark.failure("Q5")
def test_a_submission_and_the_end_of_the_last_holder_never_leave_a_slot_free(core: Core) -> None:
    limit = {"key": "variables.key", "max": 1}
    core = Core(core.database, TaskSpec.model_validate({"concurrency": [limit]}))
    report_worker(core, 8, DEFAULT_QUEUE)
    core.submit(core.actor, request(core, "a"))
    for _ in range(RACES):
        core.dispatch.send_due()
        (holder,) = [each.message for each in iter(lambda: core.queue.take(DEFAULT_QUEUE), None)]
        claim = core.claim(holder)
        assert claim is not None

        def end(claim: Claim = claim) -> None:
            core.end(claim, Completed(1))
            core.limits.of_keys(claim.workspace_id, claim.limit_keys or ())

        made, _ = together([lambda: core.submit(core.actor, request(core, "a")), end])
        assert core.get(made.execution_id).held is None, "it waits, and the slot is free"


class Acts:
    """Random acts on executions with limits, each followed by a turn of the keeper."""

    def __init__(self, core: Core, seed: int) -> None:
        self.core = core
        self.chance = Random(seed)
        self.made: list[UUID] = []
        self.running: list[Claim] = []

    def act(self) -> None:
        self.chance.choice(
            [self.submit, self.submit, self.batch, self.claim, self.end, self.cancel, self.give_up,
             self.wait]
        )()  # fmt: skip
        self.core.dispatch.release_due()
        self.core.limits.some(LIMIT)
        self.core.dispatch.send_due()
        self.core.assert_consistent()

    def submit(self) -> None:
        made = self.core.submit(self.core.actor, request(self.core, self.chance.choice(KEYS)))
        self.made.append(made.execution_id)

    def batch(self) -> None:
        self.made += self.core.pending_many([{"key": self.chance.choice(KEYS)} for _ in range(3)])

    def claim(self) -> None:
        envelope = self.core.queue.take(DEFAULT_QUEUE)
        claim = None if envelope is None else self.core.claim(envelope.message)
        self.running += [claim] if claim is not None else []

    def end(self) -> None:
        if (claim := self._taken()) is not None:
            cancelled = self.core.get(claim.lease.execution_id).cancel_requested_at is not None
            self.core.end(claim, Stopped() if cancelled else Completed(1))

    def give_up(self) -> None:
        if (claim := self._taken()) is not None:
            self.core.end(claim, HandedBack(delay=self.chance.choice([0.0, 1.0])))

    def cancel(self) -> None:
        live = [each for each in self.made if not self.core.status(each).terminal]
        if live:
            self.core.cancel(self.core.actor, [self.chance.choice(live)])

    def wait(self) -> None:
        self.core.pass_time(2.0)

    def _taken(self) -> Claim | None:
        if not self.running:
            return None
        return self.running.pop(self.chance.randrange(len(self.running)))

    def counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return how many of each key have a slot, and how many wait for one."""
        used: dict[str, int] = defaultdict(int)
        waiting: dict[str, int] = defaultdict(int)
        for each in map(self.core.get, self.made):
            key = str(each.variables["key"])
            if each.held is Held.LIMIT:
                waiting[key] += 1
            elif each.held is None and each.status in LIVE - {Status.WAITING}:
                used[key] += 1
        return used, waiting


@pytest.mark.failure("Q4")
@pytest.mark.parametrize("seed", range(4))
def test_random_acts_keep_all_slots_in_use(core: Core, seed: int) -> None:
    acts = Acts(limited(core), seed)
    for _ in range(60):
        acts.act()
    used, waiting = acts.counts()
    total = sum(used.values())
    assert total <= ALL
    for key in KEYS:
        assert used[key] <= MAX
        assert not waiting[key] or used[key] == MAX or total == ALL, "a slot is free"


@pytest.mark.failure("Q11")
def test_what_a_process_has_stored_before_it_died_gets_its_slot_from_the_keeper(
    core: Core,
) -> None:
    core = limited(core)
    dying = Submit(core.database, SpecCache(core.database), core.dispatch)
    made = [dying(core.actor, request(core, "a")).execution_id for _ in range(3)]
    assert {core.get(each).held for each in made} == {Held.LIMIT}
    together([lambda: core.limits.some(LIMIT)] * 3)
    assert sorted(map(str, (core.get(each).held for each in made))) == ["None", "None", "limit"]
    core.assert_consistent()
