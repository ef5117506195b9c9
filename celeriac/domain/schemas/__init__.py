"""JSON schemas of variables, answers and results, bounded before use (docs/schemas.md)."""

from celeriac.domain.schemas.validation import (
    MAX_SCHEMA_BYTES,
    Fault,
    check_schema,
    check_variables,
    faults,
    is_quick,
    unfolded,
    violations,
)

__all__ = [
    "MAX_SCHEMA_BYTES",
    "Fault",
    "check_schema",
    "check_variables",
    "faults",
    "is_quick",
    "unfolded",
    "violations",
]
