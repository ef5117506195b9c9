"""Senders to inbound hooks: they sign as the services they stand for."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import httpx2

from tests.support.api import Asker

HOOKS = "/api/v1/hooks"
BODY: dict[str, Any] = {"action": "opened", "issue": {"title": "It is late"}}
MAPPING = {"text": "${{ body.issue.title }}"}


def as_bytes(body: object) -> bytes:
    """Return a body as a sender writes it: not as we would."""
    return json.dumps(body, indent=1).encode()


def standard(secret: str, body: bytes, *, name: str = "", at: float = 0) -> dict[str, str]:
    """Return the headers of a sender of Standard Webhooks, made by hand."""
    name, when = name or f"msg_{uuid4().hex}", int(at or time.time())
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{name}.{when}.".encode() + body
    digest = hmac.digest(key, signed, hashlib.sha256)
    return {
        "content-type": "application/json",
        "webhook-id": name,
        "webhook-timestamp": str(when),
        "webhook-signature": f"v1a,xx v1,{base64.b64encode(digest).decode()}",
    }


def github(secret: str, body: bytes, *, name: str = "") -> dict[str, str]:
    """Return the headers of GitHub."""
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {
        "content-type": "application/json",
        "x-github-event": "issues",
        "x-github-delivery": name or str(uuid4()),
        "x-hub-signature-256": f"sha256={digest}",
    }


def stripe(secret: str, body: bytes, *, at: float = 0) -> dict[str, str]:
    """Return the headers of Stripe."""
    when = int(at or time.time())
    digest = hmac.new(secret.encode(), f"{when}.".encode() + body, hashlib.sha256).hexdigest()
    signature = f"t={when},v1={'0' * 64},v1={digest},v0=old"
    return {"content-type": "application/json", "stripe-signature": signature}


def bearer(secret: str, *, name: str | None = None) -> dict[str, str]:
    """Return the headers of a sender that can't sign."""
    named = {} if name is None else {"idempotency-key": name}
    return {"authorization": f"Bearer {secret}", "content-type": "application/json"} | named


class Hook:
    """A hook, and somebody who calls it."""

    def __init__(self, admin: Asker, **given: Any) -> None:
        self.admin = admin
        body = {"task": "summarise", "mapping": MAPPING} | given
        response = admin.post(HOOKS, json={k: v for k, v in body.items() if v is not None})
        assert response.status_code == 201, response.text
        self.made: dict[str, Any] = response.json()
        self.id: str = self.made["id"]
        self.secret: str = self.made["secret"]
        self.path: str = "/hooks/" + self.made["url"].rpartition("/hooks/")[2]

    def call(self, headers: Mapping[str, Any], body: bytes, query: str = "") -> httpx2.Response:
        """Call the hook as anybody can: without a key."""
        return self.admin.client.post(self.path + query, headers=dict(headers), content=body)

    def send(self, body: object = BODY, **named: Any) -> httpx2.Response:
        """Call the hook with a Standard Webhooks signature."""
        raw = as_bytes(body)
        return self.call(standard(self.secret, raw, **named), raw)

    def deliveries(self, status: str = "") -> list[dict[str, Any]]:
        """Return what was sent to the hook, the newest first."""
        found = self.admin.get(f"{HOOKS}/{self.id}/deliveries{status and f'?status={status}'}")
        assert found.status_code == 200, found.text
        items: list[dict[str, Any]] = found.json()["items"]
        return items

    def reasons(self) -> list[str]:
        """Return why deliveries were refused, the newest first."""
        return [each["reason"] for each in self.deliveries("refused")]
