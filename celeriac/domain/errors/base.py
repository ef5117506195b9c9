"""The root of the tree of errors."""

from collections.abc import Mapping
from typing import ClassVar

from celeriac.kit.json_types import JsonValue


class CeleriacError(Exception):
    """The root: every error that Celeriac raises on purpose.

    `code` is stable across releases; the message is for people and may change. `details` holds
    JSON values for programs (field names, limits, ids).
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, **details: JsonValue) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, JsonValue] = details
