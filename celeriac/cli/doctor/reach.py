"""Checks of the API, its key and the model server, as they answer this machine."""

from collections.abc import Iterator
from pathlib import Path

import httpx

from celeriac.cli.core.output import CommandError
from celeriac.cli.core.server import find_server
from celeriac.client import Client, ClientError
from celeriac.domain.doctor import Cause, Code, Finding, failed, ok, warning
from celeriac.settings import Settings

_TIMEOUT = 5.0
_API_CURE = "Start it: `celeriac api`."


def check_api(home: Path | None, api_url: str | None, api_key: str | None) -> Iterator[Finding]:
    """Check that the API of these options, if it is known, answers and accepts the key."""
    try:
        server = find_server(home, api_url, api_key)
        with Client(server.url, api_key=server.api_key, timeout=_TIMEOUT) as client:
            ready = client.health()
            wrong = [f"{name} {found}" for name, found in ready.checks.items() if found != "ok"]
            if wrong:
                yield warning(
                    Code.API,
                    f"{server.url} is {ready.status}: {', '.join(wrong)}",
                    "See the findings above.",
                )
            else:
                yield ok(Code.API, f"{server.url} answers")
            me = client.users.me()
            yield ok(Code.API_KEY, f"of {me.name}, {me.role.value}")
    except CommandError as error:
        yield warning(Code.API, error.message, None)
    except ClientError as error:
        if error.status is None:
            yield failed(Code.API, error.message, _API_CURE)
        else:
            cure = "Give a good one with --api-key or CELERIAC_API_KEY."
            yield failed(Code.API_KEY, error.message, cure, Cause.DENIED)


def check_model(settings: Settings) -> Finding:
    """Check that the server of the local model answers."""
    url = settings.local_model_url
    if url is None:
        return ok(Code.MODEL_SERVER, "none runs here; `celeriac up` starts one")
    try:
        with httpx.Client(trust_env=False, timeout=_TIMEOUT) as client:
            answer = client.get(f"{url}/models")
        answer.raise_for_status()
        names = ", ".join(str(each["id"]) for each in answer.json()["data"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        return failed(
            Code.MODEL_SERVER,
            f"{url} doesn't answer as an OpenAI-compatible server does: {error}",
            "Look at its log, or correct CELERIAC_LOCAL_MODEL_URL.",
        )
    return ok(Code.MODEL_SERVER, f"{url} serves {names}")
