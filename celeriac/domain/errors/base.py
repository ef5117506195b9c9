"""The root of the tree of errors."""

from collections.abc import Mapping
from typing import ClassVar

from celeriac.kit.json_types import JsonValue


class CeleriacError(Exception):
    """The root of the tree.

    `code` is stable across releases; the message is for people and may change. `details` holds
    JSON values for programs (field names, limits, ids).
    """

    code: ClassVar[str] = "error"

    def __init_subclass__(cls, *, code: str | None = None) -> None:
        """Set the code of a class; a class without one has that of its parent."""
        super().__init_subclass__()
        if code is not None:
            cls.code = code

    def __init__(self, message: str, **details: JsonValue) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, JsonValue] = details


class ConfigurationError(CeleriacError, code="configuration_invalid"):
    """A setting is missing or wrong; the message names it."""
