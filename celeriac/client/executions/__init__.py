"""Executions: submit, wait, list, cancel, retry; events and reports."""

from celeriac.client.executions.changes import OnPage
from celeriac.client.executions.executions import Executions
from celeriac.client.executions.filters import (
    Conditions,
    ExecutionFilter,
    ExecutionOptions,
    LiveFilter,
    filter_fields,
    options_body,
)

__all__ = [
    "Conditions",
    "ExecutionFilter",
    "ExecutionOptions",
    "Executions",
    "LiveFilter",
    "OnPage",
    "filter_fields",
    "options_body",
]
