"""Errors of the client."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import httpx
from pydantic import ValidationError

from celeriac.wire import Problem, ProblemField


class ClientError(Exception):
    """The API refused the request, or could not be reached.

    `code` is stable (docs/api.md); `status` is None without an answer.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: int | None = None,
        request_id: str | None = None,
        fields: Sequence[ProblemField] = (),
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status
        self.request_id = request_id
        self.fields = tuple(fields)
        self.details = dict(details or {})

    @classmethod
    def of(cls, response: httpx.Response) -> Self:
        """Return the error for a response of 4xx or 5xx, whose body must have been read."""
        try:
            problem = Problem.model_validate_json(response.content)
        except ValidationError:
            # not from the API, but from a proxy or another server
            return cls(
                f"{response.request.url.host} answered with HTTP {response.status_code}.",
                code=f"http_{response.status_code}",
                status=response.status_code,
            )
        return cls(
            problem.detail,
            code=problem.code,
            status=problem.status,
            request_id=problem.request_id,
            fields=problem.fields or (),
            details=problem.details,
        )


class UnreachableError(ClientError):
    """There was no answer: the API is down, or the connection broke repeatedly."""

    def __init__(self, base_url: str, cause: Exception) -> None:
        super().__init__(
            f"The API at {base_url} doesn't answer ({str(cause) or type(cause).__name__}). "
            "Is it running, and is the address right?",
            code="unreachable",
        )


class WaitTimeoutError(ClientError):
    """The execution or run had not ended within the time limit; it continues."""

    def __init__(self, what: str, id_: object, seconds: float) -> None:
        super().__init__(
            f"The {what} {id_} had not ended after {seconds:g} s; it continues.",
            code="wait_timeout",
        )
