"""Tokens of a GitHub App, at a server in the place of GitHub."""

from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.responses import JSONResponse, Response

from celeriac.adapters.github_app import GithubTokens
from celeriac.domain.errors import InvalidInputError, SecretUnavailableError
from celeriac.domain.secrets.minted import GithubApp, private_key
from tests.support.github import APP, KEY, Github, github, pem

pytestmark = pytest.mark.requirement("F25")

WANTED = GithubApp.model_validate(APP)


@pytest.fixture
def served() -> Iterator[tuple[Github, str]]:
    with github() as found:
        yield found


def test_a_token_is_for_one_repository(served: tuple[Github, str]) -> None:
    server, url = served

    minted = GithubTokens(url).mint(pem(KEY), WANTED)

    assert minted.token == "ghs_0123456789abcdef"
    assert minted.expires_at.isoformat() == "2026-11-28T20:00:00+00:00"
    assert minted.token not in repr(minted)
    ((claims, wanted),) = server.asked
    assert claims["iss"] == "12"
    assert 0 < claims["exp"] - claims["iat"] <= 600
    assert wanted == {"repositories": ["shop"], "permissions": {"contents": "read"}}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (JSONResponse({"message": "Not Found"}, 404), "answered 404"),
        (JSONResponse({"message": "ok"}, 200), "answered 200"),
        (JSONResponse({"token": "ghs_leak"}, 201), "no token"),
        (JSONResponse(["ghs_leak"], 201), "no token"),
        (Response("ghs_leak", 201), "no token"),
        (Response("", 302, {"location": "/elsewhere"}), "answered 302"),
    ],
)
def test_what_is_no_token_fails(served: tuple[Github, str], answer: Response, message: str) -> None:
    server, url = served
    server.answer = answer
    with pytest.raises(SecretUnavailableError, match=message) as caught:
        GithubTokens(url).mint(pem(KEY), WANTED)
    assert "ghs_leak" not in str(caught.value)
    with pytest.raises(SecretUnavailableError, match="can't be reached"):
        GithubTokens("http://127.0.0.1:9").mint(pem(KEY), WANTED)


@pytest.mark.parametrize("text", ["no key at all", pem(ec.generate_private_key(ec.SECP256R1()))])
def test_a_value_that_is_no_key_of_an_app_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="private key") as caught:
        private_key(text)
    assert text not in caught.value.message
