"""Celery's remote control, for executions that run without a slot.

Celery knows what is in its slots. The database knows what runs: these commands ask it, over a
connection of their own, since the parent of prefork has none. Without the database they answer as
Celery does.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import structlog
from celery.utils.functional import maybe_list
from celery.worker import control, state
from celery.worker.control import control_command, inspect_command

from celeriac.adapters.celery_queue import EXECUTE_TASK
from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.services.executions.active import Active, RemoteControl
from celeriac.wiring.worker import remote_control_of

logger = structlog.get_logger(__name__)


@inspect_command(alias="dump_active")
def active(state_: Any, safe: bool = False, **options: Any) -> list[dict[str, Any]]:  # noqa: FBT001, FBT002 - Celery's signature
    """List the tasks and executions that run."""
    found: list[dict[str, Any]] = _CELERYS["active"](state_, safe=safe, **options)
    known = {each["id"] for each in found}
    with _remote(state_) as remote:
        found += [
            _described(each, state_.hostname)
            for each in remote.active(f"{state_.hostname}/")
            if each.celery_task_id not in known
        ]
    return found


@control_command(variadic="task_id", signature="[id1 [id2 [... [idN]]]]")
def revoke(
    state_: Any,
    task_id: Any,
    terminate: bool = False,  # noqa: FBT001, FBT002 - Celery's signature
    signal: Any = None,
    **options: Any,
) -> Any:
    """Revoke tasks. With `terminate`, executions are cancelled: no process is killed for them."""
    ids = [str(each) for each in maybe_list(task_id) or []]
    cancelled: Sequence[str] = ()
    if terminate:
        with _remote(state_) as remote:
            cancelled = remote.cancel([key for each in ids if (key := _uuid(each))])
    rest = [each for each in ids if each not in cancelled and not _is_execution(each)]
    answer = _CELERYS["revoke"](state_, rest, terminate=terminate, signal=signal, **options)
    return {"ok": f"executions are being cancelled: {list(cancelled)}"} if cancelled else answer


@control_command(
    variadic="task_id",
    args=[("signal", str)],
    signature="<signal> [id1 [id2 [... [idN]]]]",
)
def terminate(state_: Any, signal: Any, task_id: Any, **_: Any) -> Any:
    """Do what `revoke` does with `terminate`."""
    return revoke(state_, task_id, terminate=True, signal=signal)


_CELERYS = {"active": control.active, "revoke": control.revoke}


def _is_execution(task_id: str) -> bool:
    """Whether a slot has it. Terminating it would end the process, and all that runs in it."""
    request = state.requests.get(task_id)
    return request is not None and request.name == EXECUTE_TASK


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _described(found: Active, hostname: str) -> dict[str, Any]:
    return {
        "id": found.celery_task_id,
        "name": EXECUTE_TASK,
        "args": [str(found.execution_id), found.attempt - 1],
        "kwargs": {},
        "type": EXECUTE_TASK,
        "hostname": hostname,
        "time_start": found.started,
        "acknowledged": True,
        "delivery_info": {"exchange": "", "routing_key": found.queue, "redelivered": False},
        "worker_pid": found.pid,
    }


@contextmanager
def _remote(state_: Any) -> Iterator[RemoteControl]:
    """Yield a connection for one command; log that the database is away."""
    remote = remote_control_of(state_.app.celeriac.settings)
    try:
        yield remote
    except DatabaseUnavailableError as error:
        logger.warning("database.unavailable", code=error.code, error=error.message)
    finally:
        remote.close()
