"""The clients of the run: they submit, answer, cancel and deploy over HTTP, and keep a ledger."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, PriorityQueue, Queue
from typing import Any
from zlib import crc32

import httpx

from tests.support.chaos import agents
from tests.support.chaos.catalog import (
    BY_AGENT,
    BY_VERSION,
    release,
    task_of,
    task_spec,
    variables_of,
)
from tests.support.chaos.plan import Submission

API = "/api/v1"
_CLIENTS = 6
_TIMEOUT = httpx.Timeout(6.0, connect=2.0)
_PAUSE_SECONDS = 0.3
_POLL_SECONDS = 0.5
_LATE_SECONDS = 20.0
_UNAVAILABLE = 503
_CONFLICT = 409
_ACCEPTED = 202


@dataclass(slots=True)
class Entry:
    """What became of one submission, as its client saw it."""

    work: Submission
    begun: float = 0.0
    """When its first request was sent; 0 before that."""
    ended: float = 0.0
    """When it was answered, or given up; 0 before that."""
    answers: list[list[str]] = field(default_factory=list)
    """The ids that each answer named; all must be the same."""
    refused: str | None = None
    """An answer that a valid request must never get."""
    cancelled: set[str] = field(default_factory=set)
    """Executions whose cancellation was confirmed."""


class Releases:
    """Which releases of a task may have been in force, and when."""

    def __init__(self) -> None:
        self._possible: list[tuple[float, frozenset[int]]] = [(0.0, frozenset({0}))]
        self._late: dict[int, float] = {}
        """Releases whose change may still be carried out by an API that woke up: until when."""
        self.last = 0

    def begin(self, release: int) -> None:
        """A change was sent: from now on either is possible."""
        self.last = release
        self._set(self._possible[-1][1] | {release})

    def end(self, release: int, *, clean: bool) -> None:
        """It was answered; not `clean` if an earlier try of it got no answer."""
        now = time.time()
        if not clean:
            self._late[release] = now + _LATE_SECONDS
        self._set({release, *(each for each, until in self._late.items() if until > now)})

    def between(self, begin: float, end: float) -> frozenset[int]:
        """Return the releases that may have been in force at some time in between."""
        possible: frozenset[int] = frozenset()
        for number, (since, releases) in enumerate(self._possible):
            after = self._possible[number + 1 :]
            if since <= end and (not after or after[0][0] >= begin):
                possible |= releases
        return possible

    def _set(self, releases: Iterable[int]) -> None:
        self._possible.append((time.time(), frozenset(releases)))


class Driver:
    """Runs the clients on threads of their own. Times are those of `time.time`."""

    def __init__(self, addresses: Sequence[str], api_key: str, diary: str) -> None:
        self.entries: list[Entry] = []
        self.releases = {BY_VERSION: Releases(), BY_AGENT: Releases()}
        self.faulty: list[tuple[float, str]] = []
        """Answers of 500: when, and to what."""
        self.answered: dict[str, str] = {}
        """Questions that were answered, by their titles, and the answers."""
        self._addresses = addresses
        self._headers = {"Authorization": f"Bearer {api_key}"}
        self._diary = diary
        self._due: PriorityQueue[tuple[float, int, Callable[[httpx.Client], None]]] = (
            PriorityQueue()
        )
        self._changes: Queue[str] = Queue()
        self._count = 0
        self._open = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, name=f"client {number}")
            for number in range(_CLIENTS)
        ]
        self._threads.append(threading.Thread(target=self._answer_questions, name="person"))
        self._threads.append(threading.Thread(target=self._deploy_all, name="deployer"))

    def start(self) -> None:
        """Start the clients."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop them; what is under way is given up."""
        self._ended.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    @property
    def busy(self) -> int:
        """How many requests are not done yet."""
        return self._open

    def offer(self, work: Sequence[Submission]) -> None:
        """Submit `work`, each at its time from now."""
        now = time.time()
        for each in work:
            entry = Entry(each)
            self.entries.append(entry)
            self._at(now + each.at, partial(self._submit, entry))

    def deploy(self, task: str) -> None:
        """Put the next release of a task in force, once an API answers; one after the other."""
        self._changes.put(task)

    # clients

    def _at(self, due: float, work: Callable[[httpx.Client], None]) -> None:
        with self._lock:
            self._count += 1
            self._open += 1
            number = self._count
        self._due.put((due, number, work))

    def _work(self) -> None:
        with httpx.Client(headers=self._headers, timeout=_TIMEOUT, trust_env=False) as http:
            while not self._ended.is_set():
                with suppress(Empty):
                    due, number, work = self._due.get(timeout=0.1)
                    if due > time.time():
                        self._due.put((due, number, work))
                        self._ended.wait(min(0.05, due - time.time()))
                        continue
                    try:
                        work(http)
                    finally:
                        with self._lock:
                            self._open -= 1

    def _ask(
        self, http: httpx.Client, number: int, method: str, path: str, **more: Any
    ) -> httpx.Response | None:
        """Send one request to one of the APIs; None where there was no answer, or a 5xx."""
        address = self._addresses[number % len(self._addresses)]
        try:
            response = http.request(method, f"{address}{API}{path}", **more)
        except httpx.TransportError:
            return None
        if response.is_server_error:
            if response.status_code != _UNAVAILABLE:
                self.faulty.append((time.time(), f"{method} {path}: {response.text[:300]}"))
            return None
        return response

    def _until_answered(
        self, http: httpx.Client, method: str, path: str, *, patient: bool = True, **more: Any
    ) -> httpx.Response | None:
        number = crc32(path.encode()) + self._count
        while not self._ended.is_set():
            response = self._ask(http, number, method, path, **more)
            if response is not None or not patient:
                return response
            number += 1
            self._ended.wait(_PAUSE_SECONDS)
        return None

    def _submit(self, entry: Entry, http: httpx.Client) -> None:
        work = entry.work
        items = [variables_of(work, token, self._diary) for token in work.tokens()]
        body: dict[str, Any] = {"items": items} if work.count > 1 else {"variables": items[0]}
        if work.delay:
            body["delay_seconds"] = work.delay
        path = f"/tasks/{task_of(work.kind)}/{'execute-batch' if work.count > 1 else 'execute'}"
        entry.begun = time.time()
        response = self._until_answered(
            http,
            "POST",
            path,
            patient=work.patient,
            json=body,
            headers={"Idempotency-Key": work.key},
        )
        entry.ended = time.time()
        if response is None:
            return
        if response.status_code != _ACCEPTED:
            entry.refused = f"{response.status_code}: {response.text[:300]}"
            return
        answer = response.json()
        ids = answer["execution_ids"] if work.count > 1 else [answer["execution_id"]]
        entry.answers.append(ids)
        if work.kind.startswith("hold"):
            for each in ids:
                self._at(
                    time.time() + work.cancel_after,
                    partial(self._cancel, entry, each),
                )

    def _cancel(self, entry: Entry, execution_id: str, http: httpx.Client) -> None:
        path = f"/task-executions/{execution_id}/cancel"
        response = self._until_answered(http, "POST", path)
        if response is not None and response.is_success:
            entry.cancelled.add(execution_id)
        elif response is not None and response.status_code != _CONFLICT:
            entry.refused = f"cancel: {response.status_code}: {response.text[:300]}"

    def _deploy_all(self) -> None:
        with httpx.Client(headers=self._headers, timeout=_TIMEOUT, trust_env=False) as http:
            while not self._ended.is_set():
                with suppress(Empty):
                    self._deploy(http, self._changes.get(timeout=0.2))

    def _deploy(self, http: httpx.Client, task: str) -> None:
        releases = self.releases[task]
        number = (releases.last + 1) % agents.RELEASES
        body: dict[str, Any]
        if task == BY_VERSION:
            path, body = f"/agents/{task}", {"spec": release(number).model_dump(mode="json")}
        else:
            spec = task_spec(prompt=f"release {number}").model_dump(mode="json")
            path, body = f"/tasks/{task}", {"agent": f"release-{number}", "spec": spec}
        releases.begin(number)
        clean = True
        while not self._ended.is_set():
            self._count += 1
            changed = self._ask(http, self._count, "PATCH", path, json=body)
            if changed is not None:
                releases.end(number, clean=clean)
                return
            clean = False
            self._ended.wait(_PAUSE_SECONDS)

    def _answer_questions(self) -> None:
        with httpx.Client(headers=self._headers, timeout=_TIMEOUT, trust_env=False) as http:
            number = 0
            while not self._ended.wait(_POLL_SECONDS):
                number += 1
                found = self._ask(
                    http, number, "GET", "/approvals", params={"status": "open", "limit": 100}
                )
                for question in found.json()["items"] if found is not None else []:
                    self._answer(http, number, question)

    def _answer(self, http: httpx.Client, number: int, question: dict[str, Any]) -> None:
        title = str(question["title"])
        value = f"answer to {title}"
        path = f"/approvals/{question['id']}/answer"
        body = {"approved": True, "value": value}
        answered = self._ask(http, number, "POST", path, json=body)
        if answered is not None and answered.is_success:
            self.answered[title] = value
