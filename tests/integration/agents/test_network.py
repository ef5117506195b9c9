"""The network of confined agents: what they reach over their proxy, and what is refused."""

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from celeriac.agents.child.confinement import Confinement
from celeriac.agents.network import connection
from celeriac.agents.network.rules import NetworkBounds
from celeriac.domain.agents import PythonAgent
from celeriac.domain.confinement import AgentConfinement, Driver
from celeriac.domain.environment import EnvironmentRule
from celeriac.domain.errors import (
    AgentMisconfiguredError,
    ConfigurationError,
    WorkerMisconfiguredError,
)
from celeriac.domain.executions.events import EventType
from celeriac.domain.secrets.model import HostCredential
from celeriac.kit.json_types import loads
from celeriac.kit.outbound import OutboundGuard
from celeriac.kit.sandbox import Sandbox
from celeriac.kit.users import ChildUser
from celeriac.services.ports import Job
from tests.support.certificates import make_certificate
from tests.support.http_server import serving
from tests.support.outside import Server
from tests.support.places import temporary_directory
from tests.support.programs import REPOSITORY
from tests.support.run_context import FUNCTIONS, RecordingContext, command_job, events_of
from tests.support.runners import CommandRunner, PythonRunner
from tests.support.sandboxes import confined_user, sandbox_for

pytestmark = pytest.mark.anyio

LARGE = 3_000_000


@pytest.fixture
def home() -> Iterator[Path]:
    with temporary_directory() as directory:
        (directory / "home" / "work" / "mine").mkdir(parents=True)
        directory.chmod(0o755)
        yield directory / "home"


@pytest.fixture
def echo() -> Iterator[Server]:
    echo = Server(socket.AF_INET, ("127.0.0.1", 0), echoes=True)
    yield echo
    echo.close()


async def seen(request: Request) -> Response:
    return JSONResponse([[name, value] for name, value in request.headers.items()])


async def away(request: Request) -> Response:
    return RedirectResponse(request.query_params["to"])


async def size(request: Request) -> Response:
    count = 0
    async for chunk in request.stream():
        count += len(chunk)
    return PlainTextResponse("y" * count)


@pytest.fixture
def web() -> Iterator[int]:
    app = Starlette(
        routes=[
            Route("/seen", seen),
            Route("/away", away),
            Route("/size", size, methods=["POST"]),
        ]
    )
    with serving(app) as url:
        yield int(url.rpartition(":")[2])


NAMES = {
    "api.example.com": ["127.0.0.1"],
    "cdn.example.com": ["127.0.0.1"],
    "inside.example.com": ["10.0.0.8", "fd00::8", "169.254.169.254", "::ffff:10.0.0.8"],
    "gone.example.com": [],
}


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that the worker has resolved, by a table of its own."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *others: Any, **options: Any) -> Any:
        if not str(host).endswith(".com"):
            return real(host, port, *others, **options)
        asked.append(host)
        found = [real(each, port, *others, **options)[0] for each in NAMES.get(host, [])]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


def job_of(steps: list[list[Any]], network: list[str] | None) -> Job:
    job = command_job("browse", steps=steps)
    asked = AgentConfinement(network=None if network is None else tuple(network))
    return replace(job, agent=job.agent.model_copy(update={"confinement": asked}))


def runner_of(home: Path, user: ChildUser, bounds: NetworkBounds) -> CommandRunner:
    program = REPOSITORY / "tests" / "support" / "browsing.py"
    return CommandRunner(
        commands={"browse": ["python3", str(program)]},
        confinement=Confinement(
            {"PATH": "/usr/local/bin:/usr/bin:/bin"},
            EnvironmentRule(),
            user,
            sandbox_for(home),
            bounds,
        ),
    )


def open_descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


async def test_an_agent_reaches_what_it_names_and_nothing_else(
    home: Path, user: ChildUser, web: int, echo: Server, resolved: list[str]
) -> None:
    api, other = f"api.example.com:{web}", f"api.example.com:{echo.port}"
    steps: dict[str, tuple[list[Any], Any]] = {
        "a plain request": (["get", f"http://{api}/size", 5], [200, "yyyyy"]),
        "a large one": (["get", f"http://{api}/size", LARGE], [200, LARGE]),
        "a tunnel": (["tunnel", other, "hello ", "there"], "hello there"),
        "a tunnel of an older program": (
            ["raw", f"CONNECT {other} HTTP/1.0\r\n\r\n"], "HTTP/1.1 200",
        ),
        "plain HTTP in a tunnel": (
            ["tunnel", other, "GET / HT", "TP/1.1\r\nHost: evil.example.com\r\n\r\n"],
            "HTTP/1.1 403 Plain HTTP does not",
        ),
        "TLS for the host": (["tls", other, "api.example.com"], [0x16]),
        "TLS for another allowed host": (["tls", other, "cdn.example.com"], [0x16]),
        "TLS for a stranger on the same server": (["tls", other, "evil.example.com"], [21]),
        "TLS for nobody": (["tls", other, None], [21]),
        "another host": (["get", "http://evil.example.com/"], 403),
        "another port of the host": (["tunnel", "api.example.com:5432"], "HTTP/1.1 403"),
        "a redirect to another host": (
            ["get", f"http://{api}/away?to=http://evil.example.com/loot"], 403,
        ),
        "the server's address": (["get", f"http://127.0.0.1:{web}/seen"], "URLError"),
        "the address through the proxy": (["tunnel", f"127.0.0.1:{web}"], "HTTP/1.1 403"),
        "the address as a number": (["tunnel", f"2130706433:{web}"], "HTTP/1.1 403"),
        "an address of IPv6": (["tunnel", f"[::ffff:127.0.0.1]:{web}"], "HTTP/1.1 403"),
        "a private address behind an allowed name": (
            ["tunnel", "inside.example.com:443"], "HTTP/1.1 403 inside.example.com is not on",
        ),
        "a name that is not there": (["tunnel", "gone.example.com:443"], "HTTP/1.1 502"),
        "a port where nobody listens": (["tunnel", "cdn.example.com:1"], "HTTP/1.1 502"),
        "no URL": (["raw", "GET /seen HTTP/1.1\r\nHost: x\r\n\r\n"], "HTTP/1.1 400"),
        "no HTTP": (["raw", "\x16\x03\x01 hello\r\n\r\n"], "HTTP/1.1 400"),
        "a head without end": (["raw", "GET http://" + "x" * 200_000], "HTTP/1.1 431"),
        "around the proxy": (["around", "127.0.0.1", web], "ConnectionRefusedError"),
        "many idle connections": (["many", other, 100], "after all"),
        "headers": (["get", f"http://{api}/seen"], 200),
        "the same host again": (["get", "http://evil.example.com/"], 403),
    }  # fmt: skip
    names = [api, other, "cdn.example.com:1", f"cdn.example.com:{echo.port}",
             "inside.example.com:443", "gone.example.com"]  # fmt: skip
    guard = OutboundGuard.of(allow_private=False, allowed=["api.example.com", "cdn.example.com"])
    bounds = NetworkBounds(hosts=("*.example.com:1", *names), guard=guard)
    context = RecordingContext(home / "work" / "mine")

    done = await runner_of(home, user, bounds).run(
        job_of([step for step, _ in steps.values()], names), context
    )

    results = dict(zip(steps, done.result, strict=True))
    wrong = {name: got for name, got in results.items() if not _fits(got, steps[name][1])}
    assert wrong == {}
    assert "confinement.network does not name evil.example.com:80" in results["another host"][1]
    headers = dict(loads(results["headers"][1]))
    assert headers["host"] == api
    assert not {"proxy-connection", "proxy-authorization"} & set(headers)
    assert set(resolved) == {*NAMES}, "a name that is not allowed is not even resolved"
    assert sum(each.startswith(b"\x16") for each in echo.received) == 2, "of refused TLS: nothing"
    assert b"evil" not in b"".join(echo.received)
    refused = events_of(context, EventType.NETWORK_REFUSED)
    assert {(each["host"], each["port"], each["rule"]) for each in refused} == {
        ("evil.example.com", 80, "not_allowed"),
        ("api.example.com", 5432, "not_allowed"),
        ("127.0.0.1", web, "not_allowed"),
        ("::ffff:7f00:1", web, "not_allowed"),
        ("inside.example.com", 443, "private_address"),
        ("api.example.com", echo.port, "tls_name"),
        ("api.example.com", echo.port, "plain_http"),
    }
    (used,) = events_of(context, EventType.NETWORK_USED)
    assert {(each["host"], each["port"]) for each in used["reached"]} == {
        ("api.example.com", web), ("api.example.com", echo.port),
    }  # fmt: skip
    (to_web,) = [each for each in used["reached"] if each["port"] == web]
    assert min(to_web["sent"], to_web["received"]) > LARGE
    times = {(each["host"], each["rule"]): each["times"] for each in used["refused"]}
    assert times["evil.example.com", "not_allowed"] == 3
    assert len(refused) == len(used["refused"])


def _fits(got: Any, expected: Any) -> bool:
    if isinstance(expected, int):
        return isinstance(got, list) and got[0] == expected
    if isinstance(expected, str) and isinstance(got, str):
        return got.startswith(expected)
    return bool(got == expected)


async def test_refusals_of_one_attempt_are_few_events(home: Path, user: ChildUser) -> None:
    steps = [["tunnel", f"host-{number}.test:443"] for number in range(120)]
    context = RecordingContext(home / "work" / "mine")
    runner = runner_of(home, user, NetworkBounds())
    await runner.run(job_of([], None), context)
    before = open_descriptors()

    done = await runner.run(job_of(steps, None), context)

    assert open_descriptors() == before, "the proxy ends with the attempt"

    assert all("CELERIAC_CONFINEMENT_DEFAULT_HOSTS" in each for each in done.result)
    assert len(events_of(context, EventType.NETWORK_REFUSED)) == 50
    (used,) = events_of(context, EventType.NETWORK_USED)
    assert used["reached"] == []
    assert used["refused"][-1] == {"host": None, "port": None, "rule": None, "times": 70}


async def test_a_request_that_does_not_come_is_not_waited_for(
    home: Path, user: ChildUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.2)
    runner, context = runner_of(home, user, NetworkBounds()), RecordingContext(home / "work/mine")

    assert (await runner.run(job_of([["slow"]], None), context)).result == [""]


@pytest.mark.parametrize(
    ("worker", "asked", "reaches"),
    [
        ("none", {}, True),
        ("none", {"driver": "bubblewrap"}, False),
        ("none", {"network": ()}, False),
        ("host", {}, True),
        ("host", {"driver": "bubblewrap"}, True),
        ("host", {"network": ()}, False),
        ("alone", {}, False),
    ],
)
async def test_an_agent_may_be_stricter_than_its_worker(
    home: Path, user: ChildUser, echo: Server, worker: str, asked: Any, *, reaches: bool
) -> None:
    """Never less strict: there is nothing that it could ask for."""
    sandbox = replace(sandbox_for(home), shares_network=worker == "host")
    runner = runner_of(home, user, NetworkBounds(hosts=None))
    runner.confinement = replace(
        runner.confinement,
        sandbox=None if worker == "none" else sandbox,
        stricter=lambda _: replace(sandbox, shares_network=False),
    )
    job = job_of([["around", "127.0.0.1", echo.port]], None)
    confinement = AgentConfinement(**asked)
    job = replace(job, agent=job.agent.model_copy(update={"confinement": confinement}))

    done = await runner.run(job, RecordingContext(home / "work" / "mine"))

    assert (done.result == ["connected"]) is reaches


async def test_an_agent_that_must_be_confined_does_not_run_where_that_cant_be_had(
    home: Path, user: ChildUser
) -> None:
    def refuse(_: Driver) -> Sandbox:
        raise ConfigurationError("Install bubblewrap.")

    runner = runner_of(home, user, NetworkBounds())
    runner.confinement = replace(runner.confinement, sandbox=None, stricter=refuse)

    with pytest.raises(WorkerMisconfiguredError, match=r"must be confined.* Install bubblewrap"):
        await runner.run(job_of([], ["*"]), RecordingContext(home / "work" / "mine"))
    agent = PythonAgent(function=f"{FUNCTIONS}:greet", confinement=AgentConfinement(network=()))
    functions = PythonRunner(modules=["tests.support"], confinement=runner.confinement)
    job = replace(job_of([], None), agent=agent)
    with pytest.raises(AgentMisconfiguredError, match="is a coroutine") as late:
        await functions.run(job, RecordingContext(home / "work" / "mine"))
    assert late.value.details["field"] == "confinement"


async def test_an_agent_gets_no_more_than_the_worker_allows(home: Path, user: ChildUser) -> None:
    bounds = NetworkBounds(hosts=("*.example.com:443",))
    context = RecordingContext(home / "work" / "mine")

    with pytest.raises(
        WorkerMisconfiguredError, match=r"has 'api\.example\.com', which this"
    ) as late:
        await runner_of(home, user, bounds).run(
            job_of([], ["a.example.com:443", "api.example.com"]), context
        )

    assert late.value.details["field"] == "confinement.network.1"
    assert context.events == []


@pytest.mark.requirement("F25")
async def test_the_proxy_adds_credentials_that_the_agent_never_holds(
    home: Path, web: int, resolved: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = confined_user()
    made = make_certificate(tmp_path, "api.example.com")
    monkeypatch.setenv("SSL_CERT_FILE", str(made.certificate))
    app = Starlette(routes=[Route("/seen", seen), Route("/size", size, methods=["POST"])])
    bounds = NetworkBounds(hosts=None, guard=OutboundGuard(allow_private=True))
    runner, context = runner_of(home, user, bounds), RecordingContext(home / "work" / "mine")
    token = "tok-0123456789"
    options: dict[str, Any] = {"ssl_certfile": str(made.certificate), "ssl_keyfile": str(made.key)}
    with serving(app, **options) as url:
        secure = int(url.rpartition(":")[2])
        api, twin = f"api.example.com:{secure}", f"cdn.example.com:{secure}"
        steps: list[list[Any]] = [
            ["get", f"http://{api}/seen"],
            ["get", f"http://{api}/size", 5],
            ["get", f"http://api.example.com:{web}/seen"],
            ["get", f"http://{twin}/seen"],
            ["tls", api, "api.example.com"],
            ["raw", f"GET http://{api}/seen HTTP/1.1\r\nHost: {twin}\r\nX-KEY: mine\r\n\r\n"],
            ["get", f"http://API.example.com.:{secure}/seen"],
            ["raw", f"GET http://{api}/seen HTTP/1.1\r\nHost: x\r\nConnection: x-key\r\n\r\n"],
        ]
        job = job_of(steps, [api, twin, f"api.example.com:{web}"])
        credentials = (
            HostCredential("api.example.com", secure, "Authorization", f"Bearer {token}"),
            HostCredential("api.example.com", secure, "x-key", token),
            HostCredential("cdn.example.com", secure, "Authorization", f"Bearer {token}"),
        )
        done = await runner.run(replace(job, credentials=credentials), context)

    with_token, body, plain, other, tunnel, raw, spelled, dropped = done.result
    assert with_token[0] == 200
    headers = dict(loads(with_token[1]))
    assert headers["authorization"] == f"Bearer {token}"
    assert (headers["x-key"], headers["host"]) == (token, api)
    assert body == [200, "yyyyy"]
    assert "authorization" not in dict(loads(plain[1])), "another port, without TLS"
    assert other[0] == 502, "a certificate for another host gets nothing"
    assert tunnel == [0x16], "a tunnel stays unread"
    assert raw == dropped == "HTTP/1.1 200 OK"
    headers = dict(loads(spelled[1]))
    assert (headers["authorization"], headers["host"]) == (f"Bearer {token}", api), "another form"
    assert token not in str(context.events)

    runner.confinement = replace(runner.confinement, sandbox=None)
    job = replace(command_job("browse", steps=[]), credentials=credentials)
    with pytest.raises(AgentMisconfiguredError, match="only the proxy of a confined agent"):
        await runner.run(job, RecordingContext(home / "work" / "mine"))
