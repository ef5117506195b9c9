"""Asks several sources at once, each for a bounded time; keeps what each has answered last."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from celeriac.domain.errors import CeleriacError, UnavailableError
from celeriac.domain.sitrep import Section
from celeriac.kit.threads import Threads

logger = structlog.get_logger(__name__)

ASK_SECONDS = 0.25
"""How long a source may take, once it has answered before."""

FIRST_SECONDS = 1.0
"""How long it may take the first time: it may have to connect, and nothing else can be shown."""

FRESH_SECONDS = 1.0
"""How long an answer is used again."""

_KEPT = 1_000
_UNDER_WAY = 32
"""Calls of a pool that may be under way; a server that hangs does not collect more."""


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask: `about` tells the answers of workspaces apart."""

    about: Hashable
    ask: Callable[[], Any]
    threads: Threads


@dataclass(slots=True)
class _Answer:
    """The last answers of a source, and the call that is under way."""

    call: Future[None] | None = None
    data: Any = None
    error: str | None = None
    as_of: datetime | None = None
    answered: float | None = None
    """When it has answered last, on the monotonic clock."""
    ended: float | None = None
    """When the last call ended, with an answer or an error."""


class Sources:
    """Sources by name. Safe to share between threads.

    A source is asked once at a time for the same thing; an answer that comes too late is kept for
    the next one who asks. Nothing that a source raises is raised here.
    """

    def __init__(self) -> None:
        self._answers: OrderedDict[Hashable, _Answer] = OrderedDict()
        self._under_way: dict[Threads, int] = {}
        self._lock = threading.Lock()

    def ask(self, questions: Mapping[str, Question]) -> dict[str, Section[Any]]:
        """Return a section for each question, within FIRST_SECONDS."""
        began = time.monotonic()
        answers = {name: self._begin(name, each) for name, each in questions.items()}
        for seconds in (ASK_SECONDS, FIRST_SECONDS):
            calls = [
                each.call
                for each in answers.values()
                if each.call and (seconds == ASK_SECONDS or each.answered is None)
            ]
            wait(calls, timeout=max(began + seconds - time.monotonic(), 0))
        with self._lock:
            return {name: _section(each) for name, each in answers.items()}

    def _begin(self, name: str, question: Question) -> _Answer:
        with self._lock:
            key = name, question.about
            answer = self._answers.setdefault(key, _Answer())
            self._answers.move_to_end(key)
            while len(self._answers) > _KEPT:
                self._answers.popitem(last=False)
            recent = answer.ended is not None and time.monotonic() - answer.ended < FRESH_SECONDS
            if answer.call is not None or recent:
                return answer
            if self._under_way.get(question.threads, 0) >= _UNDER_WAY:
                answer.error = "Too many calls wait for it already."
                return answer
            try:
                answer.call = question.threads.submit(self._ask, name, question, answer)
            except (RuntimeError, MemoryError) as error:  # no thread can be started
                answer.error = str(error)
            else:
                self._under_way[question.threads] = self._under_way.get(question.threads, 0) + 1
            return answer

    def _ask(self, name: str, question: Question, answer: _Answer) -> None:
        data, error = None, None
        try:
            data = question.ask()
        except UnavailableError as raised:
            error = raised.message
        except CeleriacError as raised:
            error = raised.message
            logger.warning("sitrep.source_failed", source=name, code=raised.code, error=error)
        except Exception as raised:
            # a fault of one source must not take the others' answers away
            error = f"It failed: {type(raised).__name__}."
            logger.exception("sitrep.source_failed", source=name)
        with self._lock:
            self._under_way[question.threads] -= 1
            answer.call = None
            answer.ended = time.monotonic()
            answer.error = error
            if error is None:
                answer.data = data
                answer.as_of = datetime.now(UTC)
                answer.answered = answer.ended


def _section(answer: _Answer) -> Section[Any]:
    error = answer.error
    if answer.call is not None and (
        answer.answered is None or time.monotonic() - answer.answered >= FRESH_SECONDS
    ):
        error = f"It did not answer within {ASK_SECONDS if answer.answered else FIRST_SECONDS:g} s."
    age = None if answer.answered is None else max(time.monotonic() - answer.answered, 0.0)
    return Section(
        ok=error is None,
        as_of=answer.as_of,
        age_seconds=None if age is None else round(age, 3),
        data=answer.data,
        error=error,
    )
