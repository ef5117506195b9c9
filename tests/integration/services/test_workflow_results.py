"""Results of a step that are too large to be handed on: by reference, and read in pages."""

from functools import partial
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event

from celeriac.domain.errors import InvalidInputError
from celeriac.domain.executions.model import Claim
from celeriac.domain.workflows.states import RunStatus
from celeriac.kit.json_types import JsonObject, JsonValue
from celeriac.services.executions.run_results import read_results
from celeriac.services.workflows.values import INLINE_BYTES
from tests.support.workflows import FAILS, Flows

pytestmark = pytest.mark.requirement("E3")

EACH = {"task": "each", "map": "input.list", "with": {"x": "${{ item }}"}}
LIST = {"input": {"list": "array"}}
LARGE = "x" * 100_000


def read(flows: Flows, claim: Claim, step: str, run_id: UUID | None = None) -> list[JsonValue]:
    """Return all results of a step as an execution reads them, page by page."""
    found: list[JsonValue] = []
    after: int | None = -1
    while after is not None:
        with flows.core.database.autocommit() as connection:
            page = read_results(connection, claim.lease.execution_id, step=step, run_id=run_id,
                                after=after)  # fmt: skip
        assert sum(len(str(each)) for each in page.results) <= 1_000_000 or len(page.results) == 1
        found += page.results
        after = page.next_after
    return found


def at_last_step(flows: Flows, count: int, work: object = None, **spec: object) -> Claim:
    """Return the claim of a step behind a map whose items have ended."""
    steps = {"each": {**EACH, **spec}, "all": {"task": "all", "needs": ["each"]}}
    flows.start(flows.define("results", steps, **LIST), list=list(range(count)))
    flows.drive(work or (lambda _, given: [given["x"], LARGE]), most=count)  # type: ignore[arg-type]
    claim = flows.take()
    assert claim is not None
    assert flows.names[claim.task_id] == "all"
    return claim


def test_results_of_several_megabytes_are_read_in_pages_and_in_order(flows: Flows) -> None:
    claim = at_last_step(flows, 35)
    statements = 0

    def count(*_: object) -> None:
        nonlocal statements
        statements += 1

    event.listen(flows.core.database.engine, "before_cursor_execute", count)
    try:
        assert read(flows, claim, "each") == [[number, LARGE] for number in range(35)]
    finally:
        event.remove(flows.core.database.engine, "before_cursor_execute", count)
    pages = 4 + 1  # nine results of 100 kB a page; the last page is empty
    assert statements <= 2 * pages + pages  # and the BEGIN of none of them


def test_items_that_have_failed_have_no_result(flows: Flows) -> None:
    def work(name: str, given: JsonObject) -> object:
        return FAILS if given.get("x") == 1 else given["x"]

    claim = at_last_step(flows, 3, work, on_failure="continue")
    assert read(flows, claim, "each") == [0, None, 2]


def test_a_result_larger_than_a_page_is_a_page(flows: Flows) -> None:
    claim = at_last_step(flows, 3, lambda _, given: str(given["x"]) * 1_500_000)
    assert [len(str(each)) for each in read(flows, claim, "each")] == [1_500_000] * 3


@pytest.mark.parametrize("more", [0, 1], ids=["the largest that is handed on", "one byte more"])
def test_results_up_to_a_size_are_handed_on(flows: Flows, more: int) -> None:
    """Whatever page of items is the one that exceeds it."""
    count = 80
    length = INLINE_BYTES // count

    def work(name: str, given: JsonObject) -> object:
        if name == "all":
            return given
        rest = INLINE_BYTES - count * length + more if given["x"] == count - 1 else 0
        return "x" * (length - len('""') + rest)

    steps = {"each": EACH, "all": {"task": "all", "with": {"all": "${{ steps.each.results }}"}}}
    workflow = flows.define("results", steps, **LIST, returns="${{ steps.all.result.all }}")
    run_id = flows.start(workflow, list=list(range(count)))
    flows.drive(work)

    result = flows.ran(run_id).result
    assert isinstance(result, dict if more else list), flows.ran(run_id).run.error_message


def test_an_empty_map_has_no_results(flows: Flows) -> None:
    assert read(flows, at_last_step(flows, 0), "each") == []


def test_what_can_t_be_read_says_why(flows: Flows) -> None:
    claim = at_last_step(flows, 1)
    other = at_last_step_of_another(flows)
    ask = partial(read, flows, claim)
    with pytest.raises(InvalidInputError, match="has no step 'none'"):
        ask("none")
    with pytest.raises(InvalidInputError, match=r"'all' is running\. Name it in the `needs`"):
        ask("all")
    for run_id in (other.run_id, uuid4()):
        with pytest.raises(InvalidInputError, match="neither that of this execution nor one above"):
            ask("each", run_id)
    with pytest.raises(InvalidInputError, match="is no step of a workflow"):
        read(flows, flows.core.running(), "each")


def at_last_step_of_another(flows: Flows) -> Claim:
    """Return the claim of a step of another run."""
    flows.start(flows.define("other", {"only": {"task": "only"}}))
    claim = flows.take()
    assert claim is not None
    return claim


def test_a_run_below_reads_results_of_the_run_above(flows: Flows) -> None:
    flows.define(
        "below", {"inner": {"task": "inner", "with": {"all": "${{ input.all }}"}}},
        input={"all": "object"},
    )  # fmt: skip
    steps = {
        "each": EACH,
        "sub": {"workflow": "below", "with": {"all": "${{ steps.each.results }}"}},
    }
    run_id = flows.start(flows.define("above", steps, **LIST), list=list(range(5)))
    flows.drive(lambda _, given: [given["x"], LARGE], most=5)
    claim = flows.take()
    assert claim is not None
    reference = {"results_of": {"run": str(run_id), "step": "each", "count": 5}}
    assert claim.variables == {"all": reference}
    assert claim.run_id != run_id
    with pytest.raises(InvalidInputError, match="has no step 'each'"):
        read(flows, claim, "each")
    assert [each[0] for each in read(flows, claim, "each", run_id)] == [0, 1, 2, 3, 4]


def test_expressions_know_how_many_results_there_are_by_reference(flows: Flows) -> None:
    ran = flows.run(
        {
            "each": EACH,
            "all": {
                "task": "all", "when": "size(steps.each.results) == 4",
                "with": {"count": "${{ steps.each.results.size() }}"},
            },
        },
        lambda name, given: [given["x"], LARGE] if name == "each" else given,
        **LIST, given={"list": list(range(4))},
    )  # fmt: skip
    assert ran.status is RunStatus.COMPLETED
    assert flows.done[-1] == ("all", {"count": 4})


@pytest.mark.parametrize(
    "step",
    [
        {"task": "all", "map": "steps.each.results", "with": {}},
        {"task": "all", "when": "steps.each.results.all(x, x[0] > 0)"},
        {"task": "all", "with": {"first": "${{ steps.each.results[0] }}"}},
        {"task": "all", "when": "1 in steps.each.results"},
    ],
    ids=["map", "all", "index", "in"],
)
def test_an_expression_that_needs_the_results_themselves_says_where_they_can_be_read(
    flows: Flows, step: JsonObject
) -> None:
    ran = flows.run(
        {"each": EACH, "all": step},
        lambda _, given: [given["x"], LARGE],
        **LIST,
        given={"list": list(range(4))},
    )
    assert ran.status is RunStatus.FAILED
    assert ran.run.error_code == "expression_error"
    assert "read them in a task with ctx.results" in str(ran.run.error_message)
