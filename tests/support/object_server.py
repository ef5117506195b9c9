"""An S3-compatible server on the loopback, with one bucket."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from celeriac.adapters.object_store import S3Options
from tests.support.waiting import wait_until

BUCKET = "agents"
ACCESS_KEY, SECRET_KEY = "a-key-of-tests", "a secret of tests alone"


@contextmanager
def running_object_server(directory: Path) -> Iterator[S3Options]:
    """Run a server that keeps its objects in `directory`; yield how it is reached."""
    (directory / BUCKET).mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "nanio", "serve", "--data-dir", str(directory),
        "--host", "127.0.0.1", "--port", str(port), "--no-access-log",
    ]  # fmt: skip
    environment = {
        "PATH": os.environ["PATH"],
        "NANIO_ACCESS_KEY": ACCESS_KEY,
        "NANIO_SECRET_KEY": SECRET_KEY,
    }
    endpoint = f"http://127.0.0.1:{port}"
    with (directory.parent / "object-server.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_until(lambda: _answers(endpoint), "the object server answers")
        yield S3Options(
            endpoint=endpoint,
            region="us-east-1",
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
        )
    finally:
        server.terminate()
        server.wait(10)


def _answers(endpoint: str) -> bool:
    try:
        return httpx.get(endpoint).status_code > 0
    except httpx.TransportError:
        return False
