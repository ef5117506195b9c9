"""States of workflow runs and of their steps, and their transitions as data."""

from enum import StrEnum
from types import MappingProxyType


class RunStatus(StrEnum):
    """The status of a workflow run (docs/states.md)."""

    PENDING = "pending"
    """Accepted; no step may begin yet: it waits for slots of its limits."""
    RUNNING = "running"
    """Its steps run."""
    FINISHING = "finishing"
    """All ordinary steps have settled; those with `run: failure` or `run: always` run."""
    COMPENSATING = "compensating"
    """It failed or was cancelled; the undo tasks run."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether the run has ended."""
        return self in TERMINAL_RUNS


class RunTransition(StrEnum):
    """A named reason to change the state of a run."""

    BEGIN = "begin"
    FINISH = "finish"
    COMPENSATE = "compensate"
    COMPLETE = "complete"
    FAIL = "fail"
    CANCEL = "cancel"


TERMINAL_RUNS = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED})
LIVE_RUNS = frozenset(RunStatus) - TERMINAL_RUNS

_WORKING = frozenset({RunStatus.RUNNING, RunStatus.FINISHING})
_SETTLED = _WORKING | {RunStatus.COMPENSATING}

RUN_TRANSITIONS = MappingProxyType(
    {
        # name: (allowed sources, target)
        RunTransition.BEGIN: (frozenset({RunStatus.PENDING}), RunStatus.RUNNING),
        RunTransition.FINISH: (frozenset({RunStatus.RUNNING}), RunStatus.FINISHING),
        RunTransition.COMPENSATE: (_WORKING, RunStatus.COMPENSATING),
        RunTransition.COMPLETE: (_WORKING, RunStatus.COMPLETED),
        # one that meets its deadline before it has begun
        RunTransition.FAIL: (_SETTLED | {RunStatus.PENDING}, RunStatus.FAILED),
        RunTransition.CANCEL: (_SETTLED | {RunStatus.PENDING}, RunStatus.CANCELLED),
    }
)
"""Every legal change of state: name → (states it may start from, state it ends in).

A request to cancel a run that has begun is a mark on its row: the run ends as `cancelled` after its
running steps have stopped, its `run: always` steps have run, and its undo tasks have ended.
"""


class Compensation(StrEnum):
    """What became of the undo tasks of a run that failed or was cancelled."""

    COMPENSATED = "compensated"
    COMPENSATION_FAILED = "compensation_failed"
    """An undo task failed; the others ran all the same."""


class StepStatus(StrEnum):
    """The status of a step in a run, and of each item of a map and each round of a repeat."""

    BLOCKED = "blocked"
    """It waits for the steps that it needs."""
    READY = "ready"
    """All that it needs has settled; its condition is evaluated next."""
    RUNNING = "running"
    """Its executions, its workflow run or its question exist."""
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    """Its condition was false, or everything that it needs was skipped."""
    DENIED = "denied"
    """An approval that wasn't given; the steps that need it are skipped."""
    CANCELLED = "cancelled"
    """It was stopped, or never began because the run failed, was cancelled, or met its deadline."""

    @property
    def terminal(self) -> bool:
        """Whether the step has settled."""
        return self in TERMINAL_STEPS


class StepTransition(StrEnum):
    """A named reason to change the state of a step."""

    UNBLOCK = "unblock"
    START = "start"
    COMPLETE = "complete"
    FAIL = "fail"
    SKIP = "skip"
    DENY = "deny"
    CANCEL = "cancel"


class ItemStatus(StrEnum):
    """The status of an item: of its execution, of its run, or of what ended without either."""

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    FINISHING = "finishing"
    COMPENSATING = "compensating"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    DENIED = "denied"
    CANCELLED = "cancelled"
    DELETED = "deleted"
    """Retention has deleted its execution or run."""


TERMINAL_STEPS = frozenset(
    {
        StepStatus.COMPLETED,
        StepStatus.FAILED,
        StepStatus.SKIPPED,
        StepStatus.DENIED,
        StepStatus.CANCELLED,
    }
)
LIVE_STEPS = frozenset(StepStatus) - TERMINAL_STEPS

STEP_TRANSITIONS = MappingProxyType(
    {
        # name: (allowed sources, target)
        StepTransition.UNBLOCK: (frozenset({StepStatus.BLOCKED}), StepStatus.READY),
        StepTransition.START: (frozenset({StepStatus.READY}), StepStatus.RUNNING),
        # An empty map completes, and an expression fails, before anything runs.
        StepTransition.COMPLETE: (
            frozenset({StepStatus.READY, StepStatus.RUNNING}),
            StepStatus.COMPLETED,
        ),
        StepTransition.FAIL: (
            frozenset({StepStatus.READY, StepStatus.RUNNING}),
            StepStatus.FAILED,
        ),
        StepTransition.SKIP: (
            frozenset({StepStatus.BLOCKED, StepStatus.READY}),
            StepStatus.SKIPPED,
        ),
        StepTransition.DENY: (frozenset({StepStatus.RUNNING}), StepStatus.DENIED),
        StepTransition.CANCEL: (LIVE_STEPS, StepStatus.CANCELLED),
    }
)
"""Every legal change of state: name → (states it may start from, state it ends in)."""
