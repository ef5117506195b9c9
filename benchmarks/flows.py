"""(i) Chains, fan-outs and fan-ins of no-ops, beside Celery's own canvas and DBOS, in turn.

Three ways of Celeriac: a workflow of so many steps, or with a map of so many items; a durable
function that runs children one after the other, or all at once (`ctx.run`, `ctx.map`); and
executions in Celery's `chain`, `group` and `chord`. A flow counts as done when the submitter knows
that it has succeeded.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from uuid import UUID

from celery import Celery, Signature, chain, chord, group

from benchmarks import comparison
from benchmarks.figures import Figure
from benchmarks.scale import Scale
from benchmarks.stage import Stage, add_task
from celeriac.domain.agents import PythonAgent
from celeriac.domain.executions.calls import EXECUTE_AGENT
from celeriac.domain.executions.model import SubmitRequest
from celeriac.domain.tasks import DEFAULT_QUEUE
from celeriac.domain.workflows.model import WorkflowSpec
from celeriac.services.workflows.catalog import Workflows
from celeriac.services.workflows.runs import Runs, StartRequest

CHAIN, FAN_OUT, FAN_IN = "chain", "fan-out", "fan-in"

_CONCURRENCY = 8
_SECONDS = 600
_POLL_SECONDS = 0.005

Run = Callable[[str, int], object]
"""Runs one flow of a shape with so many no-ops, and returns when its result is known."""


def measure(stage: Stage, scale: Scale) -> Figure:
    """Measure each shape with each side, in turn."""
    with ExitStack() as stack:
        programs = stage.programs
        stack.enter_context(programs.beat())
        stack.enter_context(
            programs.worker(
                pool="threads",
                concurrency=_CONCURRENCY,
                environment={"CELERIAC_CALLS_USER": stage.user},
            )
        )
        stack.enter_context(programs.bare_worker(pool="threads", concurrency=_CONCURRENCY))
        sides: dict[str, Run] = {
            "celeriac, workflow": _workflow(stage),
            "celeriac, durable function": _durable(stage),
            "celeriac, Celery's canvas": stack.enter_context(_canvas(stage)),
            "bare Celery": _bare(),
        }
        if comparison.installed():
            comparison.make_database(stage)
            sides["dbos"] = stack.enter_context(comparison.peer(stage, "dbos"))
        shapes = {CHAIN: scale.chain, FAN_OUT: scale.fan_out, FAN_IN: scale.fan_in}
        measured = {shape: _in_turn(sides, shape, count, scale) for shape, count in shapes.items()}
    return Figure("How long do a chain, a fan-out and a fan-in of no-ops take?", measured)


def _in_turn(sides: Mapping[str, Run], shape: str, count: int, scale: Scale) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for run in sides.values():
        run(shape, min(count, 10))
    for _ in range(scale.flow_rounds):
        for name, run in sides.items():
            begin = time.perf_counter()
            run(shape, count)
            seconds[name].append(time.perf_counter() - begin)
    return {
        "no_ops": count,
        **{
            name: {
                "seconds": [round(each, 3) for each in took],
                "median": round(statistics.median(took), 3),
                "ms_per_no_op": round(statistics.median(took) / count * 1000, 2),
            }
            for name, took in seconds.items()
        },
    }


def _workflow(stage: Stage) -> Run:
    container = stage.container
    workflows = Workflows(container.database)
    runs = Runs(container.database, container.plans, container.advance)
    known: dict[tuple[str, int], UUID] = {}

    def run(shape: str, count: int) -> None:
        if (shape, count) not in known:
            spec = WorkflowSpec.model_validate(_document(shape, count))
            made = workflows.create(stage.actor, name=f"{shape}-{count}", spec=spec)
            known[shape, count] = made.id
        given = {} if shape == CHAIN else {"items": [0] * count}
        request = StartRequest(known[shape, count], given)
        started = runs.start(stage.actor, request)
        query = "SELECT status, completed_at IS NOT NULL FROM workflow_runs WHERE id = :id"
        until = time.monotonic() + _SECONDS
        while True:
            ((status, ended),) = stage.watch.rows(query, id=started.run_id)
            if ended:
                break
            if time.monotonic() > until:
                raise TimeoutError(f"The {shape} of {count} is still {status}.")
            time.sleep(_POLL_SECONDS)
        if status != "completed":
            raise RuntimeError(f"The {shape} of {count} has {status}.")

    return run


def _document(shape: str, count: int) -> dict[str, Any]:
    """Return a workflow of a shape; the number of a map's items is that of its input."""
    if shape == CHAIN:
        steps: dict[str, Any] = {"s0": {"task": "noop"}}
        for number in range(1, count):
            steps[f"s{number}"] = {"task": "noop", "needs": [f"s{number - 1}"]}
        return {"steps": steps}
    steps = {"all": {"task": "noop", "map": "input.items"}}
    if shape == FAN_IN:
        steps["last"] = {"task": "noop", "needs": ["all"]}
    return {"input": {"items": "array"}, "steps": steps}


def _durable(stage: Stage) -> Run:
    tasks = {
        name: add_task(
            stage.container,
            stage.actor,
            name,
            PythonAgent(function=f"benchmarks.agents:{name}", durable=True),
        )
        for name in ("sequence", "spread")
    }

    def run(shape: str, count: int) -> None:
        task = tasks["sequence" if shape == CHAIN else "spread"]
        request = SubmitRequest(task_id=task, variables={"count": count})
        submitted = stage.container.submit(stage.actor, request)
        stage.watch.wait_until_idle(seconds=_SECONDS)
        status = "SELECT status FROM executions WHERE id = :id"
        ((ended,),) = stage.watch.rows(status, id=submitted.execution_id)
        if ended != "completed":
            raise RuntimeError(f"The {shape} of {count} has {ended}.")

    return run


@contextmanager
def _canvas(stage: Stage) -> Iterator[Run]:
    settings = stage.container.settings
    with Celery("flows", broker=settings.broker_url(), backend=settings.result_backend()) as app:
        noop = app.signature(
            EXECUTE_AGENT,
            args=(str(stage.tasks["noop"]),),
            queue=DEFAULT_QUEUE,
            immutable=True,
        )
        yield partial(_compose, noop)


def _bare() -> Run:
    from benchmarks.bare import noop

    return partial(_compose, noop.si())


def _compose(noop: Signature, shape: str, count: int) -> None:
    """Run a flow of clones of `noop` in Celery's canvas."""
    clones = [noop.clone() for _ in range(count)]
    match shape:
        case "chain":
            result = chain(*clones).apply_async()
        case "fan-out":
            result = group(clones).apply_async()
        case _:
            result = chord(clones)(noop.clone())
    result.get(timeout=_SECONDS)
