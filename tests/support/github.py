"""A server in the place of GitHub, which makes tokens of an app."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.support.http_server import serving

TOKEN = "ghs_0123456789abcdef"
APP = {
    "app_id": 12,
    "installation_id": 34,
    "repository": "shop",
    "permissions": {"contents": "read"},
}


def pem(key: Any) -> str:
    """Return a private key as GitHub hands it out."""
    encoded: bytes = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    return encoded.decode()


KEY = rsa.generate_private_key(65_537, 2_048)


class Github:
    """Answers requests for tokens with `answer`."""

    def __init__(self) -> None:
        self.asked: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.answer: Response = JSONResponse(
            {"token": TOKEN, "expires_at": "2026-11-28T20:00:00Z"}, 201
        )

    async def make(self, request: Request) -> Response:
        """Check the app's signature, and answer."""
        scheme, _, token = request.headers["authorization"].partition(" ")
        assert scheme == "Bearer"
        claims = jwt.decode(token, KEY.public_key(), algorithms=["RS256"])
        self.asked.append((claims, await request.json()))
        return self.answer


@contextmanager
def github() -> Iterator[tuple[Github, str]]:
    """Serve; yield the server and the address of its API."""
    server = Github()
    route = Route("/api/v3/app/installations/34/access_tokens", server.make, methods=["POST"])
    with serving(Starlette(routes=[route])) as url:
        yield server, f"{url}/api/v3/"


class PullRequests:
    """Answers for the pull requests of one repository, as GitHub does; `answers` come first."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.made: list[dict[str, Any]] = []
        self.answers: list[Response] = []
        self.calls: list[str] = []

    async def answer(self, request: Request) -> Response:
        """List or open pull requests."""
        self.calls.append(request.method)
        if request.headers.get("authorization") != f"Bearer {self.token}":
            said = f"Bad credentials: {request.headers.get('authorization')}"
            return JSONResponse({"message": said}, 401)
        if self.answers:
            return self.answers.pop(0)
        if request.method == "GET":
            return JSONResponse([each for each in reversed(self.made) if _fits(each, request)][:1])
        wanted = await request.json()
        alike = [each for each in self.made if each["state"] == "open"]
        if any((each["head"], each["base"]) == (wanted["head"], wanted["base"]) for each in alike):
            fault = {"message": f"A pull request already exists for acme:{wanted['head']}."}
            return JSONResponse({"message": "Validation Failed", "errors": [fault]}, 422)
        number = len(self.made) + 1
        url = f"https://github.example.com/acme/shop/pull/{number}"
        self.made.append({**wanted, "number": number, "html_url": url, "state": "open"})
        return JSONResponse(self.made[-1], 201)


def _fits(made: dict[str, Any], request: Request) -> bool:
    query = request.query_params
    return (
        query["head"] == f"acme:{made['head']}"
        and query["base"] == made["base"]
        and query["state"] in {"all", made["state"]}
    )
