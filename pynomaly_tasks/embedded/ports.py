"""Free TCP ports on loopback."""

from __future__ import annotations

import random
import socket

# Below every system's range for outgoing connections (32768 on Linux): a client that keeps
# reconnecting to a server that is down can otherwise be given the server's own port as its source,
# connect to itself, and keep the server from coming back.
_LOWEST, _HIGHEST = 15_000, 32_000
_TRIES = 200


def find_free_port() -> int:
    """A port nobody listens on now. Another process may take it first: be ready to ask again.

    Raises OSError when none was found.
    """
    chooser = random.SystemRandom()
    for _ in range(_TRIES):
        port = chooser.randrange(_LOWEST, _HIGHEST)
        if is_free(port):
            return port
    raise OSError(f"no free TCP port on 127.0.0.1 in {_TRIES} tries between {_LOWEST} and {_HIGHEST}")


def find_free_ports(n_ports: int) -> list[int]:
    """As many, no two of them the same."""
    ports: set[int] = set()
    while len(ports) < n_ports:
        ports.add(find_free_port())
    return list(ports)


def is_free(port: int) -> bool:
    """Whether nobody listens on the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
