"""Sends signed notifications of approvals to a webhook."""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Sequence
from itertools import compress
from uuid import UUID

import httpx2
import structlog

from celeriac.kit.outbound import OutboundGuard, guarded_client
from celeriac.services.approvals.notify import Notification
from celeriac.version import __version__

logger = structlog.get_logger(__name__)

SIGNATURE = "Celeriac-Signature"
DELIVERY = "Celeriac-Delivery"
_SECONDS = 10.0
_MAX_ANSWER_BYTES = 65_536


def signature(secret: str, body: bytes, *, at: int) -> str:
    """Return the signature header of a body that is sent at the Unix time `at`.

    `t=<at>,v1=<HMAC-SHA256 of "<at>." and the body, hexadecimal>`. A receiver computes the same,
    compares in constant time, and refuses old times.
    """
    signed = f"{at}.".encode() + body
    digest = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


class Webhook:
    """Posts notifications to one URL, a batch concurrently, within ten seconds."""

    def __init__(self, url: str, secret: str, guard: OutboundGuard) -> None:
        self._url = url
        self._secret = secret
        self._guard = guard

    def __call__(self, notifications: Sequence[Notification]) -> list[UUID]:
        """Send; return the ids of the approvals whose notifications got a 2xx response."""
        return asyncio.run(self._send_all(notifications))

    async def _send_all(self, notifications: Sequence[Notification]) -> list[UUID]:
        async with guarded_client(
            self._guard,
            timeout_seconds=_SECONDS,
            max_bytes=_MAX_ANSWER_BYTES,
            https_only=self._url.startswith("https:"),
            headers={"user-agent": f"celeriac/{__version__}"},
        ) as client:
            taken = await asyncio.gather(
                *(self._send(client, notification) for notification in notifications)
            )
        approvals = (notification.approval_id for notification in notifications)
        return list(compress(approvals, taken))

    async def _send(self, client: httpx2.AsyncClient, notification: Notification) -> bool:
        body = notification.body.encode()
        headers = {
            "content-type": "application/json",
            SIGNATURE: signature(self._secret, body, at=int(time.time())),
            DELIVERY: str(notification.approval_id),
        }
        try:
            async with asyncio.timeout(_SECONDS):
                answer = await client.post(self._url, content=body, headers=headers)
        except (httpx2.HTTPError, TimeoutError) as error:
            # without URL and body, which may hold secrets
            logger.warning(
                "approval.notice_failed",
                approval_id=notification.approval_id,
                error=f"{type(error).__name__}: {error}",
            )
            return False
        if not answer.is_success:
            logger.warning(
                "approval.notice_refused",
                approval_id=notification.approval_id,
                status=answer.status_code,
            )
        return answer.is_success
