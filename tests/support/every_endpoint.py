"""Asks every endpoint of a running API at once, as many clients would."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

import httpx

_AT_ONCE = 64


@dataclass(frozen=True)
class Answer:
    """What an endpoint has answered, in time."""

    path: str
    status: int
    text: str


class EveryEndpoint:
    """All endpoints of GET that need no parameter, and a submission."""

    def __init__(self, http: httpx.Client, task: UUID, diary: str) -> None:
        self._http = http
        self._submit = f"/api/v1/tasks/{task}/execute"
        self._diary = diary
        described = http.get("/openapi.json").json()["paths"]
        self._paths = [
            path
            for path, methods in described.items()
            if "{" not in path and "get" in methods and not _required(methods["get"])
        ]
        self.keys: list[str] = []
        """The idempotency keys of all submissions."""

    def ask(self) -> tuple[list[Answer], Answer]:
        """Return the answers, and that to a submission with a key of its own.

        Raises httpx.TimeoutException if one does not come within the client's time.
        """
        self.keys.append(f"key-{len(self.keys)}")
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            asked = [threads.submit(self._get, path) for path in self._paths]
            submitted = threads.submit(self.submit, self.keys[-1])
            return [each.result() for each in asked], submitted.result()

    def submit(self, key: str) -> Answer:
        """Submit an execution, once for each key."""
        answer = self._http.post(
            self._submit,
            json={"variables": {"diary": self._diary}},
            headers={"Idempotency-Key": key},
        )
        return Answer(self._submit, answer.status_code, answer.text)

    def _get(self, path: str) -> Answer:
        answer = self._http.get(path)
        return Answer(path, answer.status_code, answer.text)


def _required(method: dict[str, Sequence[dict[str, object]]]) -> bool:
    return any(each.get("required") for each in method.get("parameters", ()))


@contextmanager
def every_endpoint(
    address: str, token: str, task: UUID, diary: str, *, seconds: float
) -> Iterator[EveryEndpoint]:
    """Yield the endpoints of the API at `address`; each must answer within `seconds`."""
    limits = httpx.Limits(max_connections=_AT_ONCE, max_keepalive_connections=_AT_ONCE)
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=address, headers=headers, timeout=seconds, limits=limits) as http:
        yield EveryEndpoint(http, task, diary)
