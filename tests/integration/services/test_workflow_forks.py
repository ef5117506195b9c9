"""Forks along a path: steps of runs below run again, and what is beside them is taken over."""

from collections import Counter
from uuid import UUID

import pytest

from celeriac.domain.errors import ConflictError, InvalidInputError
from celeriac.domain.workflows.model import WorkflowSpec
from celeriac.domain.workflows.records import RunFilter
from celeriac.domain.workflows.states import RunStatus
from celeriac.kit.json_types import JsonObject
from celeriac.services.workflows.again import ForkRequest
from tests.support.workflows import FAILS, Flows, Ran, Work

pytestmark = pytest.mark.requirement("E3")

INNER = {
    "look": {"task": "look", "with": {"n": "${{ input.n }}"}},
    "enrich": {"task": "enrich", "with": {"n": "${{ steps.look.result }}"}},
    "leaf": {
        "task": "leaf", "map": "[0, 1, 2]", "with": {"n": "${{ steps.enrich.result + item }}"},
    },
}  # fmt: skip
MIDDLE = {
    "first": {"task": "first"},
    "part": {
        "workflow": "inner", "map": "[0, 10]", "with": {"n": "${{ input.n + item }}"},
        "needs": ["first"],
    },
    "tail": {"task": "tail", "needs": ["part"]},
}  # fmt: skip
OUTER = {
    "list": {"task": "list"},
    "qualify": {
        "workflow": "middle", "map": "[0, 100, 200]", "with": {"n": "${{ item }}"},
        "needs": ["list"],
    },
    "one": {"workflow": "inner", "with": {"n": "${{ 1000 }}"}},
    "all": {"task": "all", "with": {"all": "${{ steps.qualify.results }}"}},
}  # fmt: skip
NUMBER: JsonObject = {"n": "integer"}
WHOLE = [[[q + p + x for x in range(3)] for p in (0, 10)] for q in (0, 100, 200)]


def number(_name: str, given: JsonObject) -> object:
    return given.get("n", given)


def added(_name: str, given: JsonObject) -> object:
    """Return the number and another 10,000: so it shows which leaves ran again."""
    return given["n"] + 10_000 if "n" in given else given


def define(flows: Flows) -> UUID:
    flows.define("inner", INNER, input=NUMBER, returns="${{ steps.leaf.results }}")
    flows.define("middle", MIDDLE, input=NUMBER, returns="${{ steps.part.results }}")
    return flows.define("outer", OUTER, returns="${{ steps.qualify.results }}")


def ran(flows: Flows, work: Work = number) -> UUID:
    """Run workflows in maps in workflows in maps."""
    run_id = flows.start(define(flows))
    flows.drive(work)
    flows.done.clear()
    return run_id


def forked(flows: Flows, origin: UUID, step: str, items: tuple[int, ...] = ()) -> UUID:
    request = ForkRequest(step=step, items=items)
    return flows.runs.fork(flows.core.actor, origin, request).run_id


def counts(flows: Flows) -> Counter[str]:
    found = Counter(name for name, _ in flows.done)
    flows.done.clear()
    return found


def below(flows: Flows, run_id: UUID, step: str, item: int = 0) -> UUID:
    found = flows.ran(run_id).items(step)[item].child_run_id
    assert found is not None
    return UUID(str(found))


PATHS: list[tuple[str, tuple[int, ...], Counter[str]]] = [
    ("qualify[1]/tail", (), Counter(tail=1, all=1)),
    ("qualify[1]/part[0]/enrich", (), Counter(enrich=1, leaf=3, tail=1, all=1)),
    ("qualify[1]/part[1]/leaf", (0, 2), Counter(leaf=2, tail=1, all=1)),
    ("qualify[1]/part[1]/leaf[1,2]", (), Counter(leaf=2, tail=1, all=1)),
    ("qualify[2]/part[1]", (), Counter(look=1, enrich=1, leaf=3, tail=1, all=1)),
    ("one/leaf[2]", (), Counter(leaf=1)),
]


@pytest.mark.failure("W24")
def test_a_fork_along_a_path_runs_its_step_and_what_needs_it_on_every_level(flows: Flows) -> None:
    origin = ran(flows)
    for path, items, expected in PATHS:
        run_id = forked(flows, origin, path, items)
        flows.drive(number)
        ended = flows.ran(run_id)
        assert (ended.status, ended.result) == (RunStatus.COMPLETED, WHOLE), path
        assert counts(flows) == expected, path
    flows.assert_counted()


def test_runs_on_the_path_fork_their_origins_and_items_beside_them_are_the_same(
    flows: Flows,
) -> None:
    origin = ran(flows)

    run_id = forked(flows, origin, "qualify[1]/part[0]/leaf[2]")
    flows.drive(added)

    expected = [[list(each) for each in part] for part in WHOLE]
    expected[1][0][2] += 10_000
    assert flows.ran(run_id).result == expected
    before, after = flows.ran(origin), flows.ran(run_id)
    middle, old_middle = below(flows, run_id, "qualify", 1), below(flows, origin, "qualify", 1)
    inner, old_inner = below(flows, middle, "part"), below(flows, old_middle, "part")
    assert flows.ran(middle).run.origin_id == old_middle
    assert flows.ran(inner).run.origin_id == old_inner
    for item in (0, 2):
        assert below(flows, run_id, "qualify", item) == below(flows, origin, "qualify", item)
    assert below(flows, middle, "part", 1) == below(flows, old_middle, "part", 1)
    assert executions(after, "list") == executions(before, "list")
    leaves, old = executions(flows.ran(inner), "leaf"), executions(flows.ran(old_inner), "leaf")
    assert (leaves[:2], leaves[2] != old[2]) == (old[:2], True)


def executions(of: Ran, step: str) -> list[UUID | None]:
    return [each.execution_id for each in of.items(step)]


def test_items_beside_the_path_without_success_go_on_as_in_a_retry(flows: Flows) -> None:
    origin = ran(flows, lambda name, given: FAILS if given.get("n") == 212 else number(name, given))
    assert flows.ran(origin).status is RunStatus.FAILED

    run_id = forked(flows, origin, "qualify[0]/part[0]/leaf[0]")
    flows.drive(number)

    assert (flows.ran(run_id).status, flows.ran(run_id).result) == (RunStatus.COMPLETED, WHOLE)
    # the leaf of the path, the one that had failed, and what needs them
    assert counts(flows) == Counter(leaf=2, tail=2, all=1)


def test_a_workflow_that_has_changed_keeps_its_version_on_the_path(flows: Flows) -> None:
    origin = ran(flows)
    shorter = {"look": INNER["look"]}
    spec = {"steps": shorter, "input": NUMBER, "returns": "${{ steps.look.result }}"}
    flows.workflows.change(flows.core.actor, "inner", spec=WorkflowSpec.model_validate(spec))

    run_id = forked(flows, origin, "qualify[1]/part[0]/enrich")
    flows.drive(number)

    assert flows.ran(run_id).result == WHOLE
    assert counts(flows) == Counter(enrich=1, leaf=3, tail=1, all=1)


def test_a_fork_that_was_cancelled_before_it_began_the_path_is_retried_along_it(
    flows: Flows,
) -> None:
    origin = ran(flows)
    # stored, as by a process that dies before it begins the run
    flows.runs._begin = lambda run_id: None  # type: ignore[method-assign]
    run_id = forked(flows, origin, "qualify[1]/part[0]/enrich")
    flows.runs.cancel(flows.core.actor, run_id)
    del flows.runs._begin
    flows.keep(number)
    assert flows.ran(run_id).status is RunStatus.CANCELLED
    assert counts(flows) == Counter()

    again = flows.runs.retry(flows.core.actor, run_id).run_id
    flows.drive(number)

    assert (flows.ran(again).status, flows.ran(again).result) == (RunStatus.COMPLETED, WHOLE)
    assert counts(flows) == Counter(enrich=1, leaf=3, tail=1, all=1)
    flows.assert_counted()


def test_a_fork_that_fails_inside_the_path_goes_on_there_when_it_is_retried(flows: Flows) -> None:
    origin = ran(flows)
    run_id = forked(flows, origin, "qualify[1]/part[0]/enrich")
    flows.drive(lambda name, given: FAILS if name == "leaf" else number(name, given))
    assert flows.ran(run_id).status is RunStatus.FAILED
    assert counts(flows)["enrich"] == 1

    again = flows.runs.retry(flows.core.actor, run_id).run_id
    flows.drive(number)

    assert (flows.ran(again).status, flows.ran(again).result) == (RunStatus.COMPLETED, WHOLE)
    assert counts(flows) == Counter(leaf=3, tail=1, all=1)


def test_a_run_below_that_retention_has_deleted_since_fails_its_item_in_words(
    flows: Flows,
) -> None:
    origin = ran(flows)
    middle = below(flows, origin, "qualify", 1)
    flows.runs._begin = lambda run_id: None  # type: ignore[method-assign]
    run_id = forked(flows, origin, "qualify[1]/tail")
    del flows.runs._begin
    flows.core.execute("DELETE FROM workflow_runs WHERE id = :id", id=middle)
    flows.keep(number)

    failed = flows.ran(run_id)
    assert (failed.status, failed.run.error_step) == (RunStatus.FAILED, "qualify")
    assert "The run that 'qualify[1]' was is deleted" in str(failed.run.error_message)
    with pytest.raises(ConflictError, match=r"'qualify\[1\]' was is deleted.*end the path"):
        forked(flows, origin, "qualify[1]/tail")


FAULTS = [
    ("qualify[1]/partt", "The workflow 'middle' has no step 'partt', as in 'qualify"),
    ("qualfy[1]/part", "The workflow has no step 'qualfy'; its steps are list, qualify"),
    ("qualify/part", "The step 'qualify' is a map; name the item, as in 'qualify[0]/part'."),
    ("qualify[1]/part/leaf", "'qualify[1]/part' is a map; name the item, as in 'qualify[1]/"),
    ("qualify[3]/part", "The step 'qualify' has no item 3: it has 3 items, and they count"),
    ("qualify[1]/part[2]/leaf", "The step 'qualify[1]/part' has no item 2: it has 2 items"),
    ("qualify[1]/first[0]", "The step 'qualify[1]/first' is no map"),
    ("list/part", "The step 'list' runs no workflow, so no path leads below it"),
    ("qualify[1]/first/leaf", "The step 'qualify[1]/first' runs no workflow"),
    ("one[0]/leaf", "The step 'one' is no map"),
    ("qualify[0,1]/part", "several items of the step 'qualify'; only its last step"),
    ("qualify[x]/part", "The part 'qualify[x]' of the path"),
    ("qualify[1]/", "The part '' of the path"),
    ("/qualify", "The part '' of the path"),
    ("qualify[-1]/part", "The part 'qualify[-1]' of the path"),
    ("/".join(["one"] * 9), "at most 8 steps"),
]


def test_a_fault_names_the_part_of_the_path_and_the_cure(flows: Flows) -> None:
    origin = ran(flows)
    for path, words in FAULTS:
        with pytest.raises(InvalidInputError) as refused:
            forked(flows, origin, path)
        assert words in refused.value.message
        assert refused.value.field in {"step", "items"}
    forks = flows.runs.find(flows.core.actor, RunFilter(origin_id=origin))
    assert not forks.items, "nothing is stored"


def test_what_does_not_go_with_a_path_is_refused(flows: Flows) -> None:
    origin = ran(flows)
    wanted = [
        ("input", ForkRequest(step="qualify[1]/tail", input={})),
        ("results", ForkRequest(step="qualify[1]/tail", results={"list": 1})),
        ("items", ForkRequest(step="qualify[1]/part[0]", items=[1])),
        ("items", ForkRequest(step="qualify[1]/tail", items=[0])),
    ]
    for field, request in wanted:
        with pytest.raises(InvalidInputError) as refused:
            flows.runs.fork(flows.core.actor, origin, request)
        assert refused.value.field == field, refused.value.message


def test_no_path_leads_below_what_repeats_is_last_or_was_undone(flows: Flows) -> None:
    flows.define("inner", INNER, input=NUMBER, returns="${{ steps.leaf.results }}")
    run = {"workflow": "inner", "with": {"n": "${{ 1 }}"}}
    steps = {
        "again": run | {"repeat": {"until": "true", "max": 2}},
        "undone": run | {"undo": "back"},
        "weak": {"task": "weak", "on_failure": "continue"},
        "behind": run | {"needs": ["weak"]},
        "bad": {"task": "bad", "needs": ["again", "undone", "behind"]},
        "after": run | {"needs": ["bad"]},
        "last": run | {"run": "always"},
    }
    origin = flows.start(flows.define("w", steps))
    flows.drive(lambda name, given: FAILS if name in {"bad", "weak"} else number(name, given))
    for step, words in {
        "again": "repeats its workflow",
        "last": "is a last step",
        "undone": "was undone, so all of its items run again",
        "behind": "The step 'weak' runs again, .* and all of 'behind' with it",
        "after": "has no item 0: it has 0 items, as it has not begun",
    }.items():
        with pytest.raises(InvalidInputError, match=words):
            forked(flows, origin, f"{step}/leaf")


def test_a_run_on_the_path_waits_for_a_slot_of_its_limits(flows: Flows) -> None:
    limited = [{"key": "'one'", "max": 1}]
    inner = flows.define(
        "inner", INNER, input=NUMBER, returns="${{ steps.leaf.results }}", limits=limited
    )
    steps = {"q": {"workflow": "inner", "map": "[0, 100]", "with": {"n": "${{ item }}"}}}
    origin = flows.start(flows.define("outer", steps, returns="${{ steps.q.results }}"))
    flows.drive(number)
    holder = flows.start(inner, n=7)
    flows.done.clear()

    run_id = forked(flows, origin, "q[1]/leaf[0]")
    (child,) = flows.children(run_id)
    assert child.status is RunStatus.PENDING
    flows.drive(number)

    assert flows.ran(holder).status is RunStatus.COMPLETED
    assert (flows.ran(run_id).status, flows.ran(run_id).result) == (
        RunStatus.COMPLETED, [[0, 1, 2], [100, 101, 102]],
    )  # fmt: skip
    assert counts(flows) == Counter(look=1, enrich=1, leaf=3 + 1)


def test_a_fork_along_a_path_is_cancelled_with_the_runs_on_it(flows: Flows) -> None:
    origin = ran(flows)
    run_id = forked(flows, origin, "qualify[1]/part[0]/enrich")
    claim = flows.take()
    assert claim is not None

    flows.runs.cancel(flows.core.actor, run_id)
    flows.end(claim, number)
    flows.keep(number)

    middle = below(flows, run_id, "qualify", 1)
    for each in (run_id, middle, below(flows, middle, "part")):
        assert flows.ran(each).status is RunStatus.CANCELLED
    assert counts(flows) == Counter(enrich=1)
    flows.assert_counted()


def test_undo_tasks_that_have_failed_on_the_path_are_retried_first(flows: Flows) -> None:
    inner = {
        "a": {"task": "a", "undo": "back"},
        "b": {"task": "b", "needs": ["a"], "with": {"n": "${{ input.n }}"}},
    }
    flows.define("inner", inner, input=NUMBER, returns="${{ steps.b.result }}")
    steps = {
        "q": {
            "workflow": "inner", "map": "[0, 1]", "with": {"n": "${{ item }}"},
            "on_failure": "continue",
        }
    }  # fmt: skip
    origin = flows.start(flows.define("outer", steps, returns="${{ steps.q.results }}"))
    flows.drive(
        lambda name, given: FAILS if given.get("n") == 0 or name == "back" else number(name, given)
    )
    child = below(flows, origin, "q")
    with pytest.raises(ConflictError, match=f"Undo tasks of the run {child} have failed"):
        forked(flows, origin, "q[0]/b")

    flows.runs.retry(flows.core.actor, child, compensation=True)
    flows.drive(number)
    flows.done.clear()
    run_id = forked(flows, origin, "q[0]/b")
    flows.drive(number)

    assert (flows.ran(run_id).status, flows.ran(run_id).result) == (RunStatus.COMPLETED, [0, 1])
    assert counts(flows) == Counter(a=1, b=1), "what was undone runs again, too"
