"""The agents and tasks of the run, the model that they ask, and what each kind must come to."""

from collections import Counter
from collections.abc import Mapping
from typing import Any
from zlib import crc32

from celeriac.client import Client
from celeriac.domain.agents import AgentSpec, LlmAgent, PythonAgent
from celeriac.domain.budgets import Budget
from celeriac.domain.limits import ConcurrencyLimit
from celeriac.domain.tasks import RetryPolicy, TaskSpec
from tests.support.chaos import agents
from tests.support.chaos.plan import Submission
from tests.support.model_server import Exchange, ModelServer, tokens

MODEL = f"{agents.PROVIDER}/{agents.MODEL}"
PRICES = {MODEL: {"input": 1, "output": 2}}
"""US dollars per million tokens."""

LLM_QUEUE = "workflows"
"""Prefork workers don't listen to it: loading a model's library costs each of their children."""

_RETRY = RetryPolicy(max_retries=3, base_seconds=0.3, factor=2.0, jitter=0.1)
_MAX_CRASHES = 5
_SLOW_SECONDS = 0.3
THINKING, ASKING = "thinking", "asking"

LINES = ("line a", "line b")
TOGETHER = "together"
MOST_AT_ONCE = {**dict.fromkeys(LINES, 2), f"limit:{TOGETHER}": 3}
"""How many of `limited` may run at once, by the keys that executions have: see `limit_keys`."""

_FUNCTIONS = ("noop", "talk", "plain", "stumble", "refuse", "ask", "hold", "hold_plain")
BY_VERSION, BY_AGENT = "release-by-version", "release-by-agent"


def make_catalog(client: Client) -> None:
    """Make the agents and tasks."""
    for name in _FUNCTIONS:
        client.agents.create(_name(name), _function(name))
        budget = Budget(max_tokens=1_000_000) if name == "talk" else None
        client.tasks.create(_name(name), _name(name), task_spec(budget=budget))
    client.tasks.create("later", "noop", task_spec())
    client.agents.create("limited", _function("limited"))
    of_line = ConcurrencyLimit(key="variables.line", max=MOST_AT_ONCE[LINES[0]])
    client.tasks.create("limited", "limited", task_spec(concurrency=[of_line]))
    client.limits.create(TOGETHER, task="limited", max=MOST_AT_ONCE[f"limit:{TOGETHER}"])
    for name, prompt in (("think", THINKING), ("ask_parked", ASKING)):
        client.agents.create(_name(name), LlmAgent(model=MODEL, may_ask=name == "ask_parked"))
        spec = task_spec(
            prompt=f"{prompt} {{{{ token }}}}",
            queue=LLM_QUEUE,
            budget=Budget(max_tokens=1_000_000),
        )
        client.tasks.create(_name(name), _name(name), spec)
    client.agents.create(BY_VERSION, release(0))
    client.tasks.create(BY_VERSION, BY_VERSION, task_spec())
    for number in range(agents.RELEASES):
        client.agents.create(f"release-{number}", release(number))
    client.tasks.create(BY_AGENT, "release-0", task_spec())


def task_spec(**more: Any) -> TaskSpec:
    """Return how all tasks retry; crashes don't end an execution before many workers died."""
    return TaskSpec(retry=_RETRY, max_crashes=_MAX_CRASHES, **more)


def release(number: int) -> AgentSpec:
    """Return the agent whose function is that release."""
    return _function(f"release_{number}")


def task_of(kind: str) -> str:
    """Return the name of the task that a kind of work runs."""
    return _name(kind)


def variables_of(work: Submission, token: str, diary: str) -> dict[str, Any]:
    """Return the variables of one execution."""
    variables: dict[str, Any] = {"token": token}
    if work.kind not in ("think", "ask_parked"):
        variables["diary"] = diary
    if work.kind in ("talk", "plain", "stumble"):
        variables["times"] = work.times
    if work.kind == "limited":
        variables["line"] = LINES[crc32(token.encode()) % len(LINES)]
    if work.kind in ("talk", "plain", "limited"):
        variables["pause"] = work.pause
    return variables


def model_calls_of(kind: str, times: int) -> int:
    """Return how many model calls an attempt makes that completes without having been parked."""
    return {"talk": times, "think": 1}.get(kind, 0)


def _name(kind: str) -> str:
    return kind.replace("_", "-")


def _function(name: str) -> PythonAgent:
    return PythonAgent(function=f"{agents.__name__}:{name}")


class Model:
    """The scripted model; it counts what it has answered, by token."""

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()
        scenes = {THINKING: self._think, ASKING: self._ask}
        self.server = ModelServer(scenes)

    def providers(self) -> Mapping[str, Any]:
        """Return the providers that workers must know."""
        return {agents.PROVIDER: {"base_url": self.server.base_url}}

    def _think(self, exchange: Exchange) -> None:
        token = exchange.received.prompt.split()[1]
        exchange.begin()
        exchange.say(token[:4])
        self.server.ending.wait(_SLOW_SECONDS)
        exchange.say(token[4:])
        self._stop(exchange, token, "stop")

    def _ask(self, exchange: Exchange) -> None:
        """Ask a person first; then answer with what that person said."""
        token = exchange.received.prompt.split()[1]
        exchange.begin()
        if exchange.received.answered:
            exchange.say(exchange.received.answered[-1])
            self._stop(exchange, token, "stop")
        else:
            exchange.call("ask_person", {"question": token})
            self._stop(exchange, token, "tool_calls")

    def _stop(self, exchange: Exchange, token: str, reason: str) -> None:
        self.answered[token] += 1  # before the usage is sent: it may never be counted, but not more
        exchange.stop(reason, usage=tokens(*agents.CALL_TOKENS))
