"""What can go wrong for a client."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import httpx
from pydantic import ValidationError

from celeriac.wire import Problem, ProblemField


class ClientError(Exception):
    """The API refused the request, or couldn't be asked.

    `code` is stable (docs/api.md); `status` is None where no answer came.
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
        """Return the error that an answer of 4xx or 5xx stands for; its body must be read."""
        try:
            problem = Problem.model_validate_json(response.content)
        except ValidationError:
            # not the API's own words: a proxy's, or some other server's
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
    """No answer came: the API isn't there, or the connection broke again and again."""

    def __init__(self, base_url: str, cause: Exception) -> None:
        super().__init__(
            f"The API at {base_url} doesn't answer ({str(cause) or type(cause).__name__}). "
            "Is it running, and is the address right?",
            code="unreachable",
        )


class WaitTimeoutError(ClientError):
    """The execution hadn't ended when the time to wait was over; it goes on."""

    def __init__(self, execution_id: object, seconds: float) -> None:
        super().__init__(
            f"The execution {execution_id} hadn't ended after {seconds:g} s; it goes on.",
            code="wait_timeout",
        )
