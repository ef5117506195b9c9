"""Makes installation tokens of GitHub Apps.

https://docs.github.com/en/rest/apps/apps#create-an-installation-access-token-for-an-app
"""

import time
from base64 import urlsafe_b64encode
from datetime import datetime

import httpx2
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from celeriac.domain.errors import SecretUnavailableError
from celeriac.domain.secrets.minted import GithubApp, Minted, private_key
from celeriac.kit.json_types import JsonObject, dumps
from celeriac.version import __version__

_SECONDS = 15.0
_CLOCK_SLACK_SECONDS = 60
_VALID_SECONDS = 540
"""GitHub takes at most ten minutes."""
_CREATED = 201


class GithubTokens:
    """Mints tokens at the API of GitHub, or of a GitHub Enterprise Server."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url.rstrip("/")

    def mint(self, key: str, app: GithubApp) -> Minted:
        """Return a token for the app's repository. `key` is the app's private key in PEM.

        Raises InvalidInputError for another key, and SecretUnavailableError.
        """
        headers = {
            "authorization": f"Bearer {_signed(key, app.app_id)}",
            "accept": "application/vnd.github+json",
            "x-github-api-version": "2022-11-28",
            "user-agent": f"celeriac/{__version__}",
        }
        wanted = {"repositories": [app.repository], "permissions": app.permissions}
        url = f"{self._base_url}/app/installations/{app.installation_id}/access_tokens"
        try:
            answer = httpx2.post(
                url, json=wanted, headers=headers, timeout=_SECONDS, follow_redirects=False
            )
        except httpx2.HTTPError as error:
            raise SecretUnavailableError(
                f"GitHub can't be reached for a token: {type(error).__name__}."
            ) from error
        if answer.status_code != _CREATED:
            raise SecretUnavailableError(
                f"GitHub made no token for the repository {app.repository!r}: it answered "
                f"{answer.status_code}. Check the app's id, installation, repository, permissions "
                "and key."
            )
        try:
            body = answer.json()
            return Minted(str(body["token"]), datetime.fromisoformat(body["expires_at"]))
        except (ValueError, KeyError, TypeError) as error:
            raise SecretUnavailableError("GitHub's answer has no token.") from error


def _signed(key: str, app_id: int) -> str:
    """Return a JSON Web Token of the app (RS256)."""
    now = int(time.time())
    claims: JsonObject = {
        "iat": now - _CLOCK_SLACK_SECONDS,
        "exp": now + _VALID_SECONDS,
        "iss": str(app_id),
    }
    signed = f"{_encoded(dumps({'alg': 'RS256', 'typ': 'JWT'}))}.{_encoded(dumps(claims))}"
    signature = private_key(key).sign(signed.encode(), PKCS1v15(), SHA256())
    return f"{signed}.{_encoded(signature)}"


def _encoded(part: str | bytes) -> str:
    raw = part.encode() if isinstance(part, str) else part
    return urlsafe_b64encode(raw).rstrip(b"=").decode()
