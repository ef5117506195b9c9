"""Asks `/health/live` again and again over one connection, and notes how long each answer took.

A process of its own: `python -m tests.support.pulse ADDRESS FILE`. Each line of the file is when a
request began, in seconds of `time.monotonic`, which all processes share, and how long it took.
"""

import http.client
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

_PAUSE_SECONDS = 0.005
_GIVES_UP_SECONDS = 100


def main() -> None:
    """Ask until somebody ends this process."""
    address, file = sys.argv[1:]
    host = urlsplit(address).netloc
    connection = http.client.HTTPConnection(host, timeout=_GIVES_UP_SECONDS)
    with Path(file).open("a", buffering=1) as lines:
        while True:
            began = time.monotonic()
            connection.request("GET", "/health/live")
            connection.getresponse().read()
            lines.write(f"{began} {time.monotonic() - began}\n")
            time.sleep(_PAUSE_SECONDS)


if __name__ == "__main__":
    main()
