"""Trees of executions over HTTP."""

import asyncio

import pytest

from celeriac.cli.executions.tree import walk
from celeriac.client import Client
from celeriac.domain.executions.model import Claim, Completed
from celeriac.domain.executions.steps import NewChildren
from celeriac.services.executions.attempt import Attempt
from celeriac.services.executions.steps import AttemptSteps, StepStore
from celeriac.wiring.core import CoreServices
from tests.support.families import run_step
from tests.support.spending import job_of
from tests.support.working import claim, finish

EXECUTIONS = "/api/v1/task-executions"


def start_children(container: CoreServices, claimed: Claim, *texts: str) -> None:
    """Start a child for each text, as a durable function does."""
    store = StepStore(
        container.database,
        container.live,
        container.specs,
        container.dispatch,
        tree_executions=100,
    )
    steps = AttemptSteps(store, Attempt(claimed.lease), job_of(claimed))
    new = NewChildren(
        task="summarise", places=range(len(texts)), variables=[{"text": text} for text in texts]
    )
    asyncio.run(steps.start(1, new, run_step(width=len(texts))))


@pytest.mark.requirement("F12")
def test_a_tree_is_listed_shown_and_cancelled(client: Client, container: CoreServices) -> None:
    root = client.executions.execute("summarise", {"text": "root"}).execution_id
    claimed = claim(container, root)
    start_children(container, claimed, "a", "b")
    second, first = (each.id for each in client.executions.list(parent_id=root))
    container.dispatch.send_due()
    inner = claim(container, first)
    start_children(container, inner, "c")
    container.dispatch.send_due()
    finish(container, claim(container, second), Completed({"summary": "b"}))

    shown = client.executions.get(root)
    child = client.executions.get(first)
    (leaf,) = client.executions.list(parent_id=first)

    assert (shown.parent_id, shown.root_id) == (None, None)
    assert shown.child_counts == {"running": 1, "completed": 1}
    assert (child.parent_id, child.root_id) == (root, root)
    assert (leaf.parent_id, leaf.root_id) == (first, root)
    assert child.trigger_type == "workflow"
    assert [(depth, each.id) for depth, each in walk(client, shown)] == [
        (0, root), (1, first), (2, leaf.id), (1, second),
    ]  # fmt: skip

    client.executions.cancel(root)

    assert client.executions.get(first).cancel_requested_by == "parent"
    assert client.executions.get(leaf.id).status == "cancelled"
    assert client.executions.get(second).status == "completed"
