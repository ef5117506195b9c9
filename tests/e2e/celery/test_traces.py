"""Traces of a real run over OTLP: a request, a model with a tool, a failure, the end of a child."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from celeriac.client import Client
from celeriac.domain.agents import LlmAgent, McpServer, PythonAgent
from celeriac.domain.executions.states import Status
from celeriac.kit.json_types import dumps
from tests.e2e.celery.conftest import MCP_SERVERS, Person
from tests.support import fleet_agents
from tests.support.collector import Collected, Collector
from tests.support.fleet import UNHURRIED, Fleet
from tests.support.logfiles import json_lines
from tests.support.model_scenes import KEY
from tests.support.model_server import ModelServer
from tests.support.programs import Program
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("F20")

_CALLER = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
_SECRET = "the-secret-of-the-prompt"
_QUEUE = "traced"
_ENDING_QUEUE = "traced-ending"
_NEVER = "3600000"


@dataclass(frozen=True)
class Traced:
    client: Client
    http: httpx.Client
    collector: Collector
    ending: Program
    """A worker that sends spans only at the end of a child, which comes after two tasks."""
    fleet: Fleet

    def run(
        self, task: str, prompt: str, *, queue: str = _QUEUE, **headers: str
    ) -> tuple[Status, str]:
        """Run a task to its end; return its status and its id."""
        found = self.client.tasks.get(task)
        body = {"variables": {"prompt": prompt}, "queue": queue}
        answer = self.http.post(f"/api/v1/tasks/{found.id}/execute", json=body, headers=headers)
        execution_id = answer.raise_for_status().json()["execution_id"]
        return self.client.executions.wait(execution_id, timeout=60).status, execution_id

    def attempt(self, execution_id: str) -> Collected:
        """Return the span of its only attempt, once it came; the others came before."""

        def found() -> list[Collected]:
            spans = self.collector.of_execution(execution_id)
            return [span for span in spans if span.kind == "consumer"]

        wait_until(found, "the attempt's span came", within=30)
        (span,) = found()
        return span

    def submit(self, execution_id: str) -> Collected:
        """Return the span of its submit, once it came."""

        def found() -> list[Collected]:
            spans = self.collector.of_execution(execution_id)
            return [span for span in spans if span.name == "submit"]

        wait_until(found, "the submit's span came", within=30)
        (span,) = found()
        return span


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector().running() as made:
        yield made


@pytest.fixture(scope="module")
def traced(
    package_fleet: Fleet, ada: Person, worker: Program, scripted: ModelServer, collector: Collector
) -> Iterator[Traced]:
    """An API and a prefork worker with traces on, beside those that have none."""
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "CELERIAC_MCP_SERVERS": dumps(MCP_SERVERS),
        "CELERIAC_PROVIDERS": dumps({"scripted": {"base_url": scripted.base_url, "api_key": KEY}}),
        **UNHURRIED,
    }
    api = package_fleet.api("traced-api", **env)
    options = ["-m", "celery", "-A", "celeriac", "worker", "--pool", "prefork", "-c", "1"]
    with_traces = package_fleet.program(
        "traced", [*options, "-Q", _QUEUE, "-n", "traced@fleet"], **env
    )
    options += ["-Q", _ENDING_QUEUE, "-n", "ending@fleet", "--max-tasks-per-child", "2"]
    ending = package_fleet.program("ending", options, **env | {"OTEL_BSP_SCHEDULE_DELAY": _NEVER})
    package_fleet.wait_ready(with_traces)
    address = package_fleet.address_of(api)
    headers = {"Authorization": f"Bearer {ada.key}"}
    with (
        Client(address, ada.key) as client,
        httpx.Client(base_url=address, headers=headers, timeout=30) as http,
    ):
        client.agents.create(
            "traced", LlmAgent(model="scripted/model", mcp_servers=(McpServer(name="tools"),))
        )
        client.tasks.create("traced", "traced", {"prompt": "{{ prompt }}", "queue": _QUEUE})
        client.agents.create("parent", PythonAgent(function=f"{fleet_agents.__name__}:parent"))
        client.tasks.create("parent", "parent", {"queue": _QUEUE})
        yield Traced(client, http, collector, ending, package_fleet)


def test_a_run_is_a_tree_from_the_callers_span_to_model_and_tool_calls(traced: Traced) -> None:
    status, execution_id = traced.run(
        "traced",
        f'use tools__add {{"a": 2, "b": 3}} / tools__note {{"text": "{_SECRET}"}}',
        traceparent=f"00-{_CALLER[0]}-{_CALLER[1]}-01",
    )
    assert status is Status.COMPLETED

    submit = traced.submit(execution_id)
    assert (submit.trace_id, submit.kind, submit.service) == (
        _CALLER[0], "producer", "celeriac-api",
    )  # fmt: skip
    wait_until(
        lambda: [s for s in traced.collector.spans if s.span_id == submit.parent_id],
        "the request's span came",
    )
    (request,) = [s for s in traced.collector.spans if s.span_id == submit.parent_id]
    assert (request.name, request.kind) == ("POST /api/v1/tasks/{task}/execute", "server")
    assert (request.trace_id, request.parent_id) == _CALLER
    assert request.attributes["http.response.status_code"] == 202
    assert [span.name for span in traced.collector.children(submit)] == ["send messages"]

    attempt = traced.attempt(execution_id)
    assert (attempt.name, attempt.parent_id, attempt.service, attempt.failed) == (
        "attempt traced", "", "celeriac-worker", False,
    )  # fmt: skip
    assert attempt.links == ((submit.trace_id, submit.span_id),)
    assert attempt.trace_id != submit.trace_id
    (agent,) = traced.collector.children(attempt)
    assert (agent.name, agent.attributes["gen_ai.agent.name"]) == ("invoke_agent traced", "traced")
    steps = traced.collector.children(agent)
    assert sorted(span.name for span in steps) == [
        *3 * ["chat model"], "execute_tool add", "execute_tool note",
    ]  # fmt: skip
    assert {span.trace_id for span in (agent, *steps)} == {attempt.trace_id}
    told = dumps([each.data for each in traced.client.executions.events(execution_id)])
    callers = re.findall(rf"noted for 00-{attempt.trace_id}-(\w{{16}})-0[13]", told)
    assert set(callers) <= {agent.span_id, *(span.span_id for span in steps)}
    assert callers, "the MCP server was given the context"
    asked = next(span for span in steps if span.name == "chat model")
    assert asked.attributes["gen_ai.provider.name"] == "scripted"
    assert asked.attributes["gen_ai.usage.input_tokens"] > 0

    body = b"".join(traced.collector.bodies)
    assert KEY.encode() not in body
    assert _SECRET.encode() not in body, "contents are in no span"

    def completed() -> list[dict[str, object]]:
        lines = json_lines(traced.fleet.home / "celeriac" / "logs" / "celery-worker.log")
        return [
            line
            for line in lines
            if line["event"] == "execution.completed" and line["execution_id"] == execution_id
        ]

    wait_until(completed, "the end is in the worker's log")
    assert [line["trace_id"] for line in completed()] == [attempt.trace_id]


def test_a_model_that_refuses_marks_the_call_the_agent_and_the_attempt(traced: Traced) -> None:
    status, execution_id = traced.run("traced", "status 400")

    assert status is Status.FAILED
    attempt = traced.attempt(execution_id)
    (agent,) = traced.collector.children(attempt)
    calls = traced.collector.children(agent)
    assert attempt.failed
    assert attempt.attributes["celeriac.status"] == "failed"
    assert attempt.attributes["error.type"] == agent.attributes["error.type"]
    assert calls
    assert calls[-1].failed


def test_a_workflows_step_and_a_child_are_linked_to_what_has_started_them(traced: Traced) -> None:
    step = {"task": "parent", "with": {"task": "traced"}}
    traced.client.workflows.create("traced", {"steps": {"first": step}})
    ran = traced.client.workflows.run("traced", {}, timeout=60)
    assert ran.status == "completed"

    def attempts(task: str) -> list[Collected]:
        found = [s for s in traced.collector.spans if s.attributes.get("celeriac.run_id")]
        run = [s for s in found if s.attributes["celeriac.run_id"] == str(ran.id)]
        parents = [s for s in run if s.kind == "consumer"]
        if task == "parent":
            return parents
        ids = {s.attributes["celeriac.execution_id"] for s in parents}
        return [s for s in traced.collector.spans if s.attributes.get("celeriac.parent_id") in ids]

    wait_until(lambda: len(attempts("parent")) == 2, "both attempts of the parent came", within=30)
    wait_until(lambda: attempts("traced"), "the child's attempt came", within=30)
    parents, (child,) = attempts("parent"), attempts("traced")
    started = [s for s in traced.collector.spans if s.name == "start step first"]
    assert [(s.trace_id, s.span_id) for s in started] == [parents[0].links[0]]
    assert parents[0].links == parents[1].links
    agents = [a for each in parents for a in traced.collector.children(each)]
    assert child.links[0] in [(a.trace_id, a.span_id) for a in agents]


def test_a_child_that_ends_sends_its_last_spans(traced: Traced) -> None:
    def run() -> str:
        status, execution_id = traced.run("traced", "plain", queue=_ENDING_QUEUE)
        assert status is Status.COMPLETED
        return execution_id

    def kinds(execution_id: str) -> list[str]:
        attempt = traced.attempt(execution_id)
        (agent,) = traced.collector.children(attempt)
        return [span.kind for span in (attempt, agent, *traced.collector.children(agent))]

    traced.fleet.wait_ready(traced.ending)
    # the second is the last task of the child, so Celery replaces it
    assert [kinds(each) for each in (run(), run())] == 2 * [["consumer", "internal", "client"]]
    last = run()
    names = {span.name for span in traced.collector.of_execution(last)}
    assert "attempt traced" not in names, "they were sent before the end"
    traced.ending.terminate()
    traced.ending.wait_end()
    assert kinds(last) == ["consumer", "internal", "client"]
