"""JSON schemas of variables, answers and results, bounded before use (docs/schemas.md)."""

from celeriac.domain.schemas.validation import (
    MAX_SCHEMA_BYTES,
    ChildValidation,
    Fault,
    check_schema,
    is_quick,
    unfolded,
    validate,
)

__all__ = [
    "MAX_SCHEMA_BYTES",
    "ChildValidation",
    "Fault",
    "check_schema",
    "is_quick",
    "unfolded",
    "validate",
]
