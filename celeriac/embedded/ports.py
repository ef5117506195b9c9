"""Ports that the operating system chooses."""

import socket

LOOPBACK = "127.0.0.1"


def reserve_port() -> int:
    """Return a free TCP port on the loopback interface, which nobody else gets for a minute.

    A connection closed from the listening side leaves the port in TIME_WAIT. The kernel hands out
    no such port, but lets a server with SO_REUSEADDR, as all of ours are, bind it by name.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, 0))
        listener.listen(1)
        port: int = listener.getsockname()[1]
        with socket.create_connection((LOOPBACK, port)) as client:
            accepted, _ = listener.accept()
            accepted.close()
            client.recv(1)  # our side has closed first, and so is the one that waits
    return port
