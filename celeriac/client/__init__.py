"""The Python client of the HTTP API.

    from celeriac.client import Client

    with Client("http://127.0.0.1:8321", "cel_…") as client:
        done = client.executions.run("summarise", {"text": "…"})
        print(done.status, done.result)

It is synchronous and safe to share between threads. Every failure is a `ClientError`, whose `code`
is the API's own (docs/api.md).
"""

from celeriac.client.client import Client
from celeriac.client.documents import Document, DocumentError
from celeriac.client.errors import ClientError, UnreachableError, WaitTimeoutError
from celeriac.client.stream import Delta

__all__ = [
    "Client",
    "ClientError",
    "Delta",
    "Document",
    "DocumentError",
    "UnreachableError",
    "WaitTimeoutError",
]
