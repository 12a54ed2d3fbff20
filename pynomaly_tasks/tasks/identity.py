"""Who holds a lease: this worker since this start, shared by its parent and its children."""

from __future__ import annotations

import secrets

# Drawn when the module is first imported, in the parent: forked children inherit it. A worker
# that restarts under its old name must not renew the leases of the one that died.
_START = secrets.token_hex(4)


def worker_id(nodename: str) -> str:
    """The name a lease carries."""
    return f"{nodename}#{_START}"
