"""Faults of pydantic's validation, for error messages."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


def first_fault(error: "ValidationError") -> tuple[str, str]:
    """Return the field of the first fault, as a dotted path, and its message, without the value."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return ".".join(map(str, fault["loc"])), fault["msg"]
