"""The pipes to the worker, and the crew's current task and agent, which is reported to it."""

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from itertools import count
from typing import Any, BinaryIO

MAX_TEXT = 20_000


class Channel:
    """Exchanges JSON lines with the worker. Any thread may use it."""

    def __init__(self, descriptor: int, commands: BinaryIO) -> None:
        """Write to `descriptor`, read the worker's later messages from `commands`."""
        self._descriptor = descriptor
        self._commands = commands
        self._sending = threading.Lock()
        self._closed = False
        self._numbers = count(1)
        self._replies: dict[str, Future[dict[str, Any]]] = {}

    def listen(self, on_soft_limit: Callable[[], None]) -> None:
        """Read the worker's messages in a thread of their own, from now on."""
        threading.Thread(
            target=self._listen, args=(on_soft_limit,), name="worker", daemon=True
        ).start()

    def send(self, message: Mapping[str, Any], *, last: bool = False) -> bool:
        """Send one message; False where a thread has sent the last one already.

        Raises TypeError or ValueError where JSON can't hold it.
        """
        text = json.dumps(message, allow_nan=False, ensure_ascii=False)
        rest = memoryview(text.encode(errors="replace") + b"\n")
        with self._sending:
            if self._closed:
                return False
            self._closed = last
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            return True

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Send a message, and return the worker's reply to it."""
        number = f"{next(self._numbers)}"
        reply = self._replies[number] = Future()
        try:
            self.send({**message, "id": number})
            return reply.result()
        finally:
            del self._replies[number]

    def _listen(self, on_soft_limit: Callable[[], None]) -> None:
        for line in self._commands:
            message = json.loads(line)
            if message["type"] == "soft_limit":
                on_soft_limit()
            elif (reply := self._replies.get(str(message.get("id")))) is not None:
                reply.set_result(message)


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

    def label(self, labels: Mapping[str, Any]) -> str:
        """Change labels of the execution; return all that it has then, or why it can't be done."""
        reply = self._channel.ask({"type": "label", "labels": dict(labels)})
        if reply["type"] == "labels":
            return json.dumps(reply["labels"], ensure_ascii=False)
        return f"Nothing was changed: {reply['message']}"

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
