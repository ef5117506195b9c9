"""The crew's current task and agent, reported to the worker."""

import time
from collections.abc import Mapping
from typing import Any

from .channel import Channel

MAX_TEXT = 20_000


class Progress:
    """Follows the crew through its tasks, which run one after the other."""

    def __init__(self, channel: Channel, total: int) -> None:
        self._channel = channel
        self._total = total
        self._done = 0
        self._task: str | None = None
        self._agent: str | None = None
        self._began = 0.0
        self._last_prompt = ""
        self.cut_off = False
        """Whether the token limit has cut the last answer off."""

    @property
    def place(self) -> dict[str, str]:
        """The node and the agent at work now, for errors and events."""
        place = {"node": f"tasks.{self._task}"} if self._task else {}
        return {**place, "agent": self._agent} if self._agent else place

    def begin(self, task: str, agent: str) -> None:
        """A task begins."""
        self._task, self._began = task, time.monotonic()
        self.event("crew_task_started", {"task": task, "agent": agent, "number": self._done + 1})
        self._agent = None
        self.at_work(agent)

    def end(self, output: str) -> None:
        """The task has ended with `output`."""
        data = {"task": self._task, "agent": self._agent, **clipped("output", output)}
        data["seconds"] = round(time.monotonic() - self._began, 3)
        self.event("crew_task_completed", data)
        self._done += 1
        self._report("" if self._done < self._total else "done")

    def at_work(self, agent: str) -> None:
        """An agent works now: that of the task, the manager, or one with delegated work."""
        if agent != self._agent:
            self._agent = agent
            self._report(f"{self._task}: {agent}")

    def message(self, role: str, content: str) -> None:
        """Log a message to a model, once, or its answer."""
        if role == "user":
            if content == self._last_prompt:
                return
            self._last_prompt = content
        self.event_of("message", {"role": role, **clipped("content", content), **self.place})

    def event(self, name: str, data: Mapping[str, Any]) -> None:
        """Log an event of the crew's own."""
        self.event_of("custom", {"name": name, "data": dict(data)})

    def event_of(self, kind: str, data: Mapping[str, Any]) -> None:
        """Log an event of one of Celeriac's types."""
        self._channel.send({"type": "event", "kind": kind, "data": dict(data)})

    def _report(self, note: str) -> None:
        self._channel.send(
            {"type": "progress", "done": self._done, "total": self._total, "note": note}
        )


def clipped(name: str, text: str) -> dict[str, Any]:
    """Return a text under its name and, in `clipped`, how many characters were cut off."""
    if len(text) <= MAX_TEXT:
        return {name: text}
    return {name: text[:MAX_TEXT], "clipped": len(text) - MAX_TEXT}
