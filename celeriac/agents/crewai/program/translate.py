"""Builds a CrewAI crew from the graph that the worker sends, and logs its tool calls."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from crewai import Agent, Crew, Process, Task, TaskOutput
from crewai.hooks import (
    ToolCallHookContext,
    register_after_tool_call_hook,
    register_before_tool_call_hook,
)
from crewai.llms.providers.openai.completion import OpenAICompletion
from crewai.mcp import MCPServerHTTP, MCPServerStdio
from crewai.tools import BaseTool
from jsonschema import Draft202012Validator
from openai import OpenAI
from pydantic import BaseModel, Field, PrivateAttr

from .client import CallLimit, GatewayClient, Model
from .failures import CrewStopError, clip
from .progress import MAX_TEXT, Progress, clipped

MANAGER = "manager"
"""The name of CrewAI's manager, in events."""

_NO_LIMIT = 10_000_000

REPAIRS = 1
"""How often an agent may correct its output before the crew fails."""

_SHOWN = 2_000
_MAX_FAULTS = 10


class Labels(BaseModel):
    """The arguments of the tool that labels an execution."""

    labels: dict[str, str | None] = Field(description="The texts by their keys.")


class LabelTool(BaseTool):
    """Labels the execution of the crew."""

    args_schema: type[BaseModel] = Labels
    _progress: Progress | None = PrivateAttr(default=None)

    def attach(self, progress: Progress) -> "LabelTool":
        """Send labels through `progress`; returns itself."""
        self._progress = progress
        return self

    def _run(self, labels: dict[str, str | None]) -> str:
        assert self._progress is not None
        return self._progress.label(labels)


class NodeLLM(OpenAICompletion):
    """One agent's model: CrewAI's own client of OpenAI-compatible servers, at the gateway."""

    _http: GatewayClient | None = PrivateAttr(default=None)

    def attach(self, http: GatewayClient) -> None:
        """Send all requests through `http`."""
        self._http = http
        self._client = self._build_sync_client()

    def get_context_window_size(self) -> int:
        """Return no limit: the provider refuses prompts that are too long."""
        return _NO_LIMIT

    def get_input_tokens_count(self, messages: Any, tools: Any = None, *_: Any, **__: Any) -> int:
        """Estimate, where the base would ask OpenAI over the network."""
        return len(str(messages)) // 4 + len(str(tools or "")) // 4

    def _build_sync_client(self) -> Any:
        parameters = self._get_client_params()
        parameters["http_client"] = self._http
        return OpenAI(**parameters) if self._http else None

    def _build_async_client(self) -> Any:
        raise ValueError("a crew's models are called synchronously")


class NodeTask(Task):
    """A task that reports its beginning and its end."""

    node: str
    worker: str
    _progress: Progress = PrivateAttr()

    def follow(self, progress: Progress) -> None:
        """Report to `progress`."""
        self._progress = progress

    def execute_sync(self, *args: Any, **kwargs: Any) -> TaskOutput:
        """Do the task; see `Task.execute_sync`."""
        self._progress.begin(self.node, self.worker)
        output = super().execute_sync(*args, **kwargs)
        self._progress.end(output.raw)
        return output


class CrewBuilder:
    """Builds the crew of one start message."""

    def __init__(self, crew: Mapping[str, Any], progress: Progress) -> None:
        self._graph: Mapping[str, Any] = crew["graph"]
        self._crew = crew
        self._progress = progress
        self._limit = CallLimit(crew["max_model_calls"])
        self._manager = self._graph["manager_agent"]

    def crew(self) -> Crew:
        """Return the crew, ready to be kicked off."""
        agents = {node["id"]: self._agent(node) for node in self._graph["agents"]}
        tasks: dict[str, NodeTask] = {}
        for node in self._graph["tasks"]:
            tasks[node["id"]] = self._task(node, agents, tasks)
        manager = agents.pop(self._manager, None)
        model = self._graph["manager_model"]
        return Crew(
            agents=list(agents.values()),
            tasks=list(tasks.values()),
            process=Process(self._graph["process"]),
            manager_agent=manager,
            manager_llm=self._llm(MANAGER, {"model": model}) if model else None,
            verbose=False,
            memory=False,
            cache=False,
            tracing=False,
            share_crew=False,
        )

    def _agent(self, node: Mapping[str, Any]) -> Agent:
        return Agent(
            role=node["role"],
            goal=node["goal"],
            backstory=node["backstory"],
            llm=self._llm(node["id"], node),
            max_iter=node["max_iterations"],
            max_retry_limit=0,
            allow_delegation=node["allow_delegation"] or node["id"] == self._manager,
            tools=[self._label_tool()] if self._crew["label_tool"] else [],
            mcps=[_mcp_server(self._crew["mcp"][name]) for name in node["tools"]] or None,
            verbose=False,
        )

    def _label_tool(self) -> BaseTool:
        described = self._crew["label_tool"]
        return LabelTool(**described).attach(self._progress)

    def _llm(self, agent: str, node: Mapping[str, Any]) -> NodeLLM:
        model = Model(**self._crew["models"][node["model"]])
        llm = NodeLLM(
            model=model.name,
            base_url=model.base_url,
            api_key=model.api_key,
            custom_openai=True,
            max_retries=0,
            temperature=node.get("temperature"),
            stream=False,
            **{model.limit_field: node.get("max_output_tokens")},
        )
        llm.attach(GatewayClient(model, agent, self._limit, self._progress))
        return llm

    def _task(
        self,
        node: Mapping[str, Any],
        agents: Mapping[str, Agent],
        earlier: Mapping[str, NodeTask],
    ) -> NodeTask:
        managed = self._graph["process"] == Process.hierarchical.value
        schema = node["output_schema"]
        task = NodeTask(
            node=node["id"],
            worker=(self._manager or MANAGER) if managed else node["agent"],
            name=node["id"],
            description=node["description"],
            expected_output=node["expected_output"] + (instruction(schema) if schema else ""),
            agent=agents[node["agent"]] if node["agent"] else None,
            context=[earlier[source] for source in node["context"]],
            guardrail=guardrail(node["id"], schema) if schema else None,
            guardrail_max_retries=REPAIRS,
        )
        task.follow(self._progress)
        return task


def _mcp_server(server: Mapping[str, Any]) -> MCPServerHTTP | MCPServerStdio:
    if "url" in server:
        return MCPServerHTTP(url=server["url"], headers=server.get("headers"))
    command, *arguments = server["command"]
    return MCPServerStdio(command=command, args=arguments, env=server["environment"])


def instruction(schema: Mapping[str, Any]) -> str:
    """Return what is added to a task's expected output."""
    text = json.dumps(schema, ensure_ascii=False)
    return f"\n\nThe final answer is JSON alone, without any other text, that fits: {text}"


def guardrail(task: str, schema: Mapping[str, Any]) -> Callable[[TaskOutput], tuple[bool, Any]]:
    """Return the check of a task's output; an output that doesn't fit is sent back once.

    The second misfit ends the crew with CrewStopError.
    """
    validator = Draft202012Validator(schema)
    tries = 0

    def check(output: TaskOutput) -> tuple[bool, Any]:
        nonlocal tries
        tries += 1
        try:
            value = json_of(output.raw)
            faults = [fault.message for fault in validator.iter_errors(value)]
        except ValueError as error:
            value, faults = None, [f"it is no JSON: {error}"]
        if not faults:
            return True, json.dumps(value, ensure_ascii=False)
        said = "; ".join(faults[:_MAX_FAULTS])
        if tries > REPAIRS:
            raise CrewStopError(
                "output_invalid",
                f"The output of the task {task!r} doesn't fit its schema: {said}.",
                retryable=True,
                answer=clip(output.raw, _SHOWN),
            )
        return False, f"The answer must be JSON that fits the schema, but: {said}"

    return check


def json_of(text: str) -> Any:
    """Return the JSON value in an answer, which may be in a code fence or within text.

    Raises ValueError where there is none.
    """
    bare = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    try:
        return json.loads(bare)
    except ValueError:
        begin = min((at for mark in "{[" if (at := bare.find(mark)) >= 0), default=-1)
        if begin < 0:
            raise
        value, _ = json.JSONDecoder().raw_decode(bare[begin:])
        return value


def log_tools(progress: Progress) -> None:
    """Log every tool call of this process, delegation included: `tool_call` and `tool_result`."""
    under_way = _UnderWay()
    numbers = count(1)

    def before(context: ToolCallHookContext) -> None:
        call = {"id": f"call-{next(numbers)}", **progress.place}
        under_way.calls.append((call, time.monotonic()))
        text = json.dumps(context.tool_input, default=str, ensure_ascii=False)
        arguments = json.loads(text) if len(text) <= MAX_TEXT else clip(text, MAX_TEXT)
        data = {**call, "tool": context.tool_name, "arguments": arguments}
        progress.event_of("tool_call", data)

    def after(context: ToolCallHookContext) -> None:
        call, began = under_way.calls.pop()
        ms = round((time.monotonic() - began) * 1000)
        content = clipped("content", str(context.tool_result))
        data = {**call, "tool": context.tool_name, "ms": ms, **content}
        progress.event_of("tool_result", data)

    register_before_tool_call_hook(before)
    register_after_tool_call_hook(after)


class _UnderWay(threading.local):
    """Tool calls of one thread that have not ended: a delegation holds calls of its own."""

    def __init__(self) -> None:
        self.calls: list[tuple[dict[str, str], float]] = []
