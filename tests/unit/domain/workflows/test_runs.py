"""The rules of runs: joins, ends, and the order of compensation, on random graphs too."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celeriac.domain.workflows.graph import Graph
from celeriac.domain.workflows.model import WorkflowSpec
from celeriac.domain.workflows.runs import (
    FAILURES,
    Change,
    Join,
    Need,
    advance,
    join,
    outcome_of_run,
)
from celeriac.domain.workflows.states import (
    RUN_TRANSITIONS,
    STEP_TRANSITIONS,
    TERMINAL_STEPS,
    Compensation,
    RunStatus,
    StepStatus,
)
from celeriac.domain.workflows.undo import compensation_of, may_begin, undo_id, undone_by

COMPLETED, FAILED, SKIPPED, DENIED, CANCELLED, BLOCKED, READY = (
    StepStatus.COMPLETED, StepStatus.FAILED, StepStatus.SKIPPED, StepStatus.DENIED,
    StepStatus.CANCELLED, StepStatus.BLOCKED, StepStatus.READY,
)  # fmt: skip


def graph(**steps: Any) -> Graph:
    full = {id_: {"task": "t", **step} for id_, step in steps.items()}
    return Graph.of(WorkflowSpec.model_validate({"steps": full}))


@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        ([], Join.READY),
        ([COMPLETED], Join.READY),
        ([COMPLETED, SKIPPED], Join.READY),
        ([SKIPPED, SKIPPED], Join.SKIPPED),
        ([COMPLETED, BLOCKED], Join.BLOCKED),
        ([FAILED, BLOCKED], Join.BLOCKED),
        ([COMPLETED, FAILED], Join.CANCELLED),
        ([COMPLETED, CANCELLED], Join.CANCELLED),
        ([COMPLETED, DENIED], Join.SKIPPED),
        ([DENIED, FAILED], Join.CANCELLED),
    ],
)
def test_join(needs: list[StepStatus], expected: Join) -> None:
    assert join(map(Need, needs)) is expected


def test_a_tolerated_failure_counts_as_run() -> None:
    assert join([Need(FAILED, tolerated=True), Need(SKIPPED)]) is Join.READY
    assert join([Need(CANCELLED, tolerated=True)]) is Join.READY
    assert join([Need(FAILED, tolerated=True), Need(FAILED)]) is Join.CANCELLED


def test_references_make_needs() -> None:
    found = graph(
        a={},
        b={"with": {"x": "${{ steps.a.result }}"}},
        c={"when": "steps.b.status == 'completed'", "needs": ["a"]},
        d={"map": "steps.c.results", "key": "item + steps.a.result"},
        e={"repeat": {"until": "result > steps.d.result", "max": 2}},
    )
    assert found.needs == {"a": (), "b": ("a",), "c": ("a", "b"), "d": ("c", "a"), "e": ("d",)}
    assert found.levels == (("a",), ("b",), ("c",), ("d",), ("e",))
    assert found.below("b") == {"c", "d", "e"}


def test_last_steps_come_after_all_others() -> None:
    found = graph(
        report={"run": "always", "needs": ["page"]},
        page={"run": "failure"},
        a={},
        b={"needs": ["a"]},
    )
    assert found.levels == (("a",), ("b",), ("page",), ("report",))
    blocked = dict.fromkeys(found.steps, BLOCKED)
    assert advance(found, blocked) == [Change("a", READY)]
    done = {**blocked, "a": COMPLETED, "b": COMPLETED}
    assert advance(found, done) == [Change("page", SKIPPED), Change("report", READY)]
    failed = {**blocked, "a": FAILED}
    assert advance(found, failed) == [Change("b", CANCELLED), Change("page", READY)]
    ended = {**failed, "b": CANCELLED, "page": FAILED}
    assert advance(found, ended) == [Change("report", READY)]
    assert outcome_of_run(found, {**ended, "report": COMPLETED}) is RunStatus.FAILED
    cancelled = {**blocked, "a": CANCELLED}
    assert advance(found, cancelled, stopped=RunStatus.CANCELLED) == [
        Change("b", CANCELLED), Change("page", SKIPPED), Change("report", READY),
    ]  # fmt: skip


def test_a_skipped_branch_does_not_drop_the_join() -> None:
    """langgraphjs #2666, argo-workflows #9621."""
    found = graph(a={}, b={"needs": ["a"]}, c={"needs": ["a"]}, d={"needs": ["b", "c"]})
    half = {"a": COMPLETED, "b": SKIPPED, "c": COMPLETED, "d": BLOCKED}
    assert advance(found, half) == [Change("d", READY)]
    none = {"a": SKIPPED, "b": BLOCKED, "c": BLOCKED, "d": BLOCKED}
    assert [change.status for change in advance(found, none)] == [SKIPPED] * 3


def undone_in_order(found: Graph, undo: dict[str, StepStatus]) -> list[list[str]]:
    """Return the steps that are undone at the same time, one after the other."""
    order = []
    while begins := may_begin(found, undo):
        undo |= dict.fromkeys(begins, FAILED)
        order.append(begins)
    return order


def test_compensation_is_in_reverse_order_of_completion() -> None:
    """danielgerlag/workflow-core #191."""
    found = graph(
        a={}, b={"needs": ["a"]}, c={"needs": ["b"]}, side={}, lost={"needs": ["c"]}, plain={}
    )
    undo = dict.fromkeys(["a", "b", "lost", "side"], BLOCKED)
    assert undone_in_order(found, undo) == [["side", "lost"], ["b"], ["a"]]
    assert may_begin(found, {"a": BLOCKED, "lost": StepStatus.RUNNING}) == []


def test_an_undo_step_is_named_after_its_step() -> None:
    assert undone_by(undo_id("book")) == "book"
    assert undone_by("book") is None
    assert compensation_of([COMPLETED]) is Compensation.COMPENSATED
    assert compensation_of([COMPLETED, FAILED]) is Compensation.COMPENSATION_FAILED


# Random graphs, random outcomes.


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    size = draw(st.integers(1, 9))
    steps: dict[str, Any] = {}
    for index in range(size):
        run = draw(st.sampled_from(["success"] * 4 + ["failure", "always"]))
        earlier = [
            f"s{each}"
            for each in range(index)
            if run != "success" or steps[f"s{each}"]["run"] == "success"
        ]
        needs = draw(st.lists(st.sampled_from(earlier), unique=True)) if earlier else []
        steps[f"s{index}"] = {
            "needs": needs,
            "run": run,
            "on_failure": draw(st.sampled_from(["fail", "continue"])),
            **({"undo": {"task": "u", "on": draw(st.sampled_from(["completed", "started"]))}}
               if run == "success" and draw(st.booleans()) else {}),
        }  # fmt: skip
    names = draw(st.permutations(list(steps)))
    return graph(**{name: steps[name] for name in names})


ENDS = sorted(TERMINAL_STEPS)


@settings(max_examples=150, deadline=None)
@given(graphs(), st.data())
def test_every_run_ends_and_no_step_begins_before_its_needs(
    found: Graph, data: st.DataObject
) -> None:
    now = dict.fromkeys(found.steps, BLOCKED)
    began: list[str] = []
    completed: list[str] = []
    stopped: RunStatus | None = None
    for _ in range(4 * len(now) + 4):
        for change in advance(found, now, stopped=stopped):
            assert not now[change.step].terminal
            assert change.status is not BLOCKED
            now[change.step] = change.status
        assert advance(found, now, stopped=stopped) == []  # nothing more may change
        if stopped is None and data.draw(st.integers(0, 19)) == 0:
            stopped = data.draw(st.sampled_from([RunStatus.CANCELLED, RunStatus.FAILED]))
            continue
        ready = sorted(id_ for id_, status in now.items() if status is READY)
        if not ready:
            break
        step = data.draw(st.sampled_from(ready))
        end = data.draw(st.sampled_from(ENDS))
        _check_begin(found, step, now, stopped)
        assert step not in began
        if end is not SKIPPED:
            began.append(step)
        if end is COMPLETED:
            completed.append(step)
        now[step] = end
    assert all(status.terminal for status in now.values())
    outcome = outcome_of_run(found, now, stopped=stopped)
    if outcome is RunStatus.COMPLETED:
        for id_, status in now.items():
            assert status not in FAILURES or found.steps[id_].tolerated
            assert status is not CANCELLED or id_ in began
    _check_compensation(found, {id_ for id_ in began if found.steps[id_].undo})


def _check_begin(
    found: Graph, step: str, now: dict[str, StepStatus], stopped: RunStatus | None
) -> None:
    assert all(now[need].terminal for need in found.needs[step])
    if found.steps[step].is_last:
        assert all(now[id_].terminal for id_ in found.ordinary)
        return
    assert stopped is None
    assert not any(
        now[id_] in FAILURES and not found.steps[id_].tolerated for id_ in found.ordinary
    )
    if found.needs[step]:
        assert {now[need] for need in found.needs[step]} - {SKIPPED}
        assert DENIED not in {now[need] for need in found.needs[step]}


def _check_compensation(found: Graph, undone: set[str]) -> None:
    order = undone_in_order(found, dict.fromkeys(undone, BLOCKED))
    place = {id_: index for index, ids in enumerate(order) for id_ in ids}
    assert sorted(place) == sorted(undone)
    assert sum(map(len, order)) == len(undone)
    for id_ in undone:
        after = [place[other] for other in found.below(id_) & undone]
        assert place[id_] == max(after, default=-1) + 1


def test_transitions_leave_no_terminal_state_and_reach_every_state() -> None:
    for table, statuses, first in (
        (RUN_TRANSITIONS, RunStatus, {RunStatus.PENDING}),
        (STEP_TRANSITIONS, StepStatus, {BLOCKED}),
    ):
        assert not any(source.terminal for sources, _ in table.values() for source in sources)
        assert {target for _, target in table.values()} | first == set(statuses)
