"""Our website: it sends the form of a visitor to a hook of Celeriac, signed.

    python -m sales.website hook.json '{"email": "…", "company": "…", "message": "…"}'

`hook.json` is what `celeriac hooks create --json` prints. The signature is that of the Standard
Webhooks specification, for which most languages have a library.
"""

import base64
import hmac
import json
import sys
import time
from pathlib import Path
from uuid import uuid4

import httpx


def signed(secret: str, message_id: str, body: bytes) -> dict[str, str]:
    """Return the headers of a request with this body."""
    now = str(int(time.time()))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"{message_id}.{now}.".encode() + body, "sha256")
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": now,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def send(hook_file: Path, form: str) -> str:
    """Send a form and return the answer. A repeat with the same id would start nothing new."""
    hook = json.loads(hook_file.read_text())
    body, message_id = form.encode(), f"msg_{uuid4().hex}"
    answer = httpx.post(hook["url"], content=body, headers=signed(hook["secret"], message_id, body))
    return answer.raise_for_status().text


if __name__ == "__main__":
    print(send(Path(sys.argv[1]), sys.argv[2]))
