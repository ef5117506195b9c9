"""A real server of git over HTTPS that asks for a user and a password: `git http-backend`."""

import os
import subprocess
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from celeriac.domain.repositories import RepositoryAccess, RepositoryRule
from celeriac.kit.outbound import OutboundGuard
from tests.support.certificates import Certificate, make_certificate
from tests.support.http_server import serving
from tests.support.repositories import Desk, Origin, git


@dataclass
class GitServer:
    """Serves the repositories of a directory to those who know the password.

    `users` are the pairs of user and password that it takes, `seen` those that were sent.
    """

    root: Path
    users: set[tuple[str, str]] = field(default_factory=set)
    seen: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""
    watch: Callable[[], None] = lambda: None
    """Called while the client waits."""

    async def answer(self, request: Request) -> Response:
        """Answer as the program of git does, after the credentials were checked."""
        given = self._credentials(request)
        self.watch()
        if given is not None:
            self.seen.append(given)
        if self.users and given not in self.users:
            headers = {"www-authenticate": 'Basic realm="git"'}
            # a server that repeats what it was sent
            return Response(f"not allowed: {given}", 401, headers=headers)
        return await self._run(request, "anybody" if given is None else given[0])

    async def _run(self, request: Request, user: str) -> Response:
        body = await request.body()
        done = await run_in_threadpool(
            subprocess.run,
            ["git", "http-backend"],
            input=body,
            capture_output=True,
            check=False,
            env={
                "PATH": os.environ["PATH"],
                "HOME": "/nonexistent",
                "GIT_PROJECT_ROOT": str(self.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": "safe.directory",
                "GIT_CONFIG_VALUE_0": "*",
                "PATH_INFO": request.url.path,
                "REQUEST_METHOD": request.method,
                "QUERY_STRING": request.url.query,
                "CONTENT_TYPE": request.headers.get("content-type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": request.headers.get("content-encoding", ""),
                "HTTP_GIT_PROTOCOL": request.headers.get("git-protocol", ""),
                "REMOTE_USER": user,
                "REMOTE_ADDR": "127.0.0.1",
            },
        )
        head, _, rest = done.stdout.partition(b"\r\n\r\n")
        pairs = (line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
        headers = {name.lower(): value for name, value in pairs}
        status = int(headers.pop("status", "200 OK").split()[0])
        if status >= 500:
            rest += done.stderr
        return Response(rest, status, headers=headers)

    @staticmethod
    def _credentials(request: Request) -> tuple[str, str] | None:
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        if scheme != "Basic":
            return None
        user, _, password = b64decode(text).decode().partition(":")
        return user, password


@contextmanager
def git_server(root: Path, certificate: Certificate, *routes: BaseRoute) -> Iterator[GitServer]:
    """Serve the repositories below `root` at `https://localhost`, besides other `routes`."""
    server = GitServer(root)
    inner = Route("/{path:path}", server.answer, methods=["GET", "POST"])
    options: dict[str, Any] = {
        "ssl_certfile": str(certificate.certificate),
        "ssl_keyfile": str(certificate.key),
    }
    with serving(Starlette(routes=[*routes, inner]), **options) as url:
        server.url = f"https://localhost:{url.rpartition(':')[2]}"
        yield server


PASSWORD = "token-of-the-tests-0123456789"
"""Of the user of `private_server`."""

ACCESS = RepositoryAccess("x-access-token", PASSWORD, UUID(int=7), 1)
"""What a worker gets for a task whose repository has this secret."""


@contextmanager
def private_server(
    served: Path, monkeypatch: pytest.MonkeyPatch, *routes: BaseRoute
) -> Iterator[GitServer]:
    """Serve the repositories below `served` to those with `ACCESS`; git trusts the certificate."""
    certificate = make_certificate(served.parent, "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.certificate))
    with git_server(served, certificate, *routes) as server:
        server.users = {(ACCESS.user, ACCESS.password)}
        yield server


def may_use(desk: Desk, server: GitServer) -> Desk:
    """Return the desk after its worker was allowed the repositories of a server on loopback."""
    mirrors = replace(desk.shared.mirrors, guard=OutboundGuard(hosts=frozenset({"localhost"})))
    desk.shared = replace(desk.shared, mirrors=mirrors, rule=RepositoryRule(allow=(server.url,)))
    return desk


def served_copy(origin: Origin, root: Path, name: str) -> Path:
    """Return a bare copy of a repository that a server can serve, and that takes pushes."""
    root.mkdir(parents=True, exist_ok=True)
    place = root / name
    git(root, "clone", "--quiet", "--bare", str(origin.path), str(place))
    git(place, "config", "http.receivepack", "true")
    return place
