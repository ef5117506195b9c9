"""The addresses of a stack's servers, and the connection file by which other commands find them."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from celeriac.embedded.errors import HomeUnusableError, usable
from celeriac.embedded.home import Home, find_holder, write_private
from celeriac.kit.processes import ProcessIdentity


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Addresses of the servers; `repr` leaves out those with passwords."""

    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    broker_url: str = field(repr=False)
    result_backend: str = field(repr=False)
    model_base_url: str | None = None

    def environment(self) -> Mapping[str, str]:
        """Return the environment variables that name the servers."""
        variables = {
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "CELERY_BROKER_URL": self.broker_url,
            "CELERY_RESULT_BACKEND": self.result_backend,
        }
        if self.model_base_url is not None:
            variables["CELERIAC_LOCAL_MODEL_URL"] = self.model_base_url
        return variables


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningStack:
    """A stack as described by the connection file of its home."""

    endpoints: Endpoints
    supervisor: ProcessIdentity
    pids: Mapping[str, int]
    api_url: str | None = None


def publish_stack(home: Home, stack: RunningStack) -> None:
    """Write the connection file, which only its owner can read. Raises HomeUnusableError."""
    write_private(home.stack_file, json.dumps(asdict(stack), indent=2) + "\n")


def withdraw_stack(home: Home) -> None:
    """Remove the connection file if it exists. Raises HomeUnusableError."""
    with usable(home.stack_file):
        home.stack_file.unlink(missing_ok=True)


def find_running_stack(home: Home) -> RunningStack | None:
    """Return the stack that runs in this home, or None.

    The file of a killed run is ignored. Raises HomeUnusableError where the file can't be read.
    """
    if not home.stack_file.exists():
        return None
    with usable(home.stack_file):
        text = home.stack_file.read_text(encoding="utf-8")
    try:
        stored = json.loads(text)
        stack = RunningStack(
            endpoints=Endpoints(**stored["endpoints"]),
            supervisor=ProcessIdentity(**stored["supervisor"]),
            pids=stored["pids"],
            api_url=stored["api_url"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise HomeUnusableError(
            home.stack_file, "it is malformed. Stop Celeriac, delete the file and start again."
        ) from error
    return stack if find_holder(home) == stack.supervisor else None
