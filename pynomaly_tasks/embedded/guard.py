"""A process that outlives its parent by a second, to end every process group the parent had started.

It is run as a script, by `child`, with the standard library alone. Its standard input is a pipe of
which the parent holds the other end; lines ``+ <pgid>`` and ``- <pgid>`` say which groups exist. The
pipe ends when the parent does, however it ended (or says ``end``): then the groups get SIGTERM and, a second later,
SIGKILL. PR_SET_PDEATHSIG would not do: it ends the child when the parent's *thread* ends, it reaches
one process and not its children, and Linux alone has it.
"""

from __future__ import annotations

import math
import os
import select
import signal
import sys
import time

GRACE_S = 1.0
#: A process forked from the parent holds the pipe open too, so the parent itself is looked for as well.
POLL_S = 1.0


def _alive(groups: set[int]) -> set[int]:
    alive = set()
    for group in groups:
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            continue
        alive.add(group)
    return alive


def _signal(groups: set[int], number: int) -> None:
    for group in groups:
        try:
            os.killpg(group, number)
            # A stopped process takes SIGTERM only once it goes on.
            os.killpg(group, signal.SIGCONT)
        except (ProcessLookupError, PermissionError):
            continue


def _watch(parent: int) -> set[int]:
    """The groups that are left when the parent is gone."""
    groups: set[int] = set()
    rest = b""
    give_up_at = math.inf
    while time.monotonic() < give_up_at:
        if give_up_at == math.inf and os.getppid() != parent:
            give_up_at = time.monotonic() + POLL_S
        if not select.select([0], [], [], POLL_S / 10 if give_up_at < math.inf else POLL_S)[0]:
            continue
        # Read to the end of the pipe: a child that has just been forked holds it until it is registered.
        chunk = os.read(0, 65_536)
        if not chunk:
            break
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            sign, _, number = line.partition(b" ")
            if sign == b"+":
                groups.add(int(number))
            elif sign == b"-":
                groups.discard(int(number))
            elif sign == b"end":
                give_up_at = time.monotonic() + POLL_S
    return groups


def main() -> None:
    """Watch the parent named by the first argument; end what it left."""
    # Ctrl-C and a closed terminal are the parent's to act on.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups = _watch(int(sys.argv[1]))
    _signal(groups, signal.SIGTERM)
    end = time.monotonic() + GRACE_S
    while (groups := _alive(groups)) and time.monotonic() < end:
        time.sleep(0.02)
    _signal(groups, signal.SIGKILL)


if __name__ == "__main__":
    main()
