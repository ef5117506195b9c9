"""Inside the child process: the `ctx` of a plain function."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeriac.agents.python.child_channel import Channel
from celeriac.agents.python.questions import ChildQuestions, approve_message, ask_message
from celeriac.kit.json_types import checked, storable, storable_text

if TYPE_CHECKING:
    from celeriac.domain.approvals import Answer

LOG_LEVELS = frozenset({"debug", "info", "warning", "error", "critical"})


class ChildContext:
    """What a plain function may do besides its own work: its parameter `ctx`.

    Has the names of `celeriac.agents.python.context.AgentContext`, without `await`.
    """

    def __init__(self, channel: Channel, questions: ChildQuestions, job: Mapping[str, Any]) -> None:
        self._channel = channel
        self._questions = questions
        self._job = job

    @property
    def execution_id(self) -> str:
        """The execution's id."""
        return str(self._job["execution_id"])

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return int(self._job["attempt"])

    @property
    def prompt(self) -> str:
        """The task's prompt, rendered with the variables."""
        return str(self._job["prompt"])

    @property
    def workdir(self) -> Path:
        """The execution's own directory, which is the current one too."""
        return Path(self._job["workdir"])

    @property
    def correlation(self) -> Mapping[str, str]:
        """The ids that every log line of this attempt carries."""
        return dict(self._job["correlation"])

    def time_left(self) -> float:
        """Return the seconds until the hard limit; they stand still while a person is asked."""
        return self._questions.time_left()

    def idempotency_key(self, step: str) -> str:
        """Return the key for an outside effect: the same for every attempt of this execution."""
        return f"{self._job['idempotency_prefix']}{step}"

    def emit(self, name: str, data: Mapping[str, Any] | None = None) -> None:
        """Add an event of your own, with JSON data, to the execution's log.

        Raises TypeError for data that can't be stored as it is (docs/python-agents.md).
        """
        own = checked(dict(data or {}))
        self._send({"type": "event", "data": {"name": name, "data": own}})

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Say how far the work is."""
        self._send({"type": "progress", "done": done, "total": total, "note": storable_text(note)})

    def log(self, message: str, *, level: str = "info", **fields: Any) -> None:
        """Write a log line; `level` is debug, info, warning, error or critical."""
        if level not in LOG_LEVELS:
            raise ValueError(f"there is no log level {level!r}; use one of {sorted(LOG_LEVELS)}")
        self._send(
            {
                "type": "log",
                "level": level,
                "message": storable_text(message),
                "logger": "agent",
                "fields": checked(fields),
            }
        )

    def delta(self, data: Mapping[str, Any]) -> None:
        """Show a piece of streaming output to those who watch; it is never stored."""
        self._send({"type": "delta", "data": checked(dict(data))})

    def charge(
        self,
        *,
        provider: str,
        model: str,
        input_tokens: int,
        output_tokens: int,
        cached_tokens: int = 0,
        latency_ms: int = 0,
        finish_reason: str | None = None,
    ) -> None:
        """Record a model call that this function made."""
        self._channel.send(
            {
                "type": "usage",
                "provider": provider,
                "model": model,
                "input_tokens": input_tokens,
                "output_tokens": output_tokens,
                "cached_tokens": cached_tokens,
                "latency_ms": latency_ms,
                "finish_reason": finish_reason,
            }
        )

    def ask(
        self,
        title: str,
        *,
        key: str | None = None,
        schema: Mapping[str, Any] | None = None,
        expires_seconds: float | None = None,
        on_expiry: str | None = None,
        default: Any = None,
    ) -> "Answer":
        """Ask a person and wait for the answer; see `AgentContext.ask`."""
        return self._ask(
            ask_message(
                title,
                key=key,
                schema=schema,
                expires_seconds=expires_seconds,
                on_expiry=on_expiry,
                default=default,
            )
        )

    def approve(
        self,
        tool: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        title: str | None = None,
        expires_seconds: float | None = None,
        on_expiry: str | None = None,
    ) -> "Answer":
        """Ask whether a tool may be called, and wait; see `AgentContext.approve`."""
        return self._ask(
            approve_message(
                tool,
                arguments,
                key=key,
                title=title,
                expires_seconds=expires_seconds,
                on_expiry=on_expiry,
            )
        )

    def _send(self, message: Mapping[str, Any]) -> None:
        """Send what the worker stores, by the same rules as a coroutine's `ctx`."""
        self._channel.send_line(storable(message))

    def _ask(self, message: Mapping[str, Any]) -> "Answer":
        from celeriac.domain.approvals import Answer  # slow to import, and few functions ask

        answer = self._questions.ask(message)
        return Answer(answer["approved"], answer["value"], answer["note"], answer["by"])
