"""Background execution for AI agents on Celery."""

import importlib
from typing import TYPE_CHECKING, Any

from celeriac.agents.python.functions import agent
from celeriac.version import __version__

if TYPE_CHECKING:
    from celeriac.agents.python.context import AgentContext, ChildContext
    from celeriac.agents.python.steps import Parking
    from celeriac.client import Client, ClientError
    from celeriac.domain.errors import (
        ChildFailedError,
        PermanentError,
        RetryableError,
        SoftTimeLimit,
        StepFailedError,
    )
    from celeriac.domain.workflows.builder import Workflow
    from celeriac.domain.workflows.builder.canvas import chain, chord, group


__all__ = [
    "AgentContext",
    "ChildContext",
    "ChildFailedError",
    "Client",
    "ClientError",
    "Parking",
    "PermanentError",
    "RetryableError",
    "SoftTimeLimit",
    "StepFailedError",
    "Workflow",
    "__version__",
    "agent",
    "chain",
    "chord",
    "group",
]

_LAZY = {
    "AgentContext": "celeriac.agents.python.context",
    "ChildContext": "celeriac.agents.python.context",
    "ChildFailedError": "celeriac.domain.errors",
    "Client": "celeriac.client",
    "ClientError": "celeriac.client",
    "Parking": "celeriac.agents.python.steps",
    "PermanentError": "celeriac.domain.errors",
    "RetryableError": "celeriac.domain.errors",
    "SoftTimeLimit": "celeriac.domain.errors",
    "StepFailedError": "celeriac.domain.errors",
    "Workflow": "celeriac.domain.workflows.builder",
    "chain": "celeriac.domain.workflows.builder.canvas",
    "chord": "celeriac.domain.workflows.builder.canvas",
    "group": "celeriac.domain.workflows.builder.canvas",
}
"""Public names that are imported when they are first used: every process imports this package,
child processes that must start fast too."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
