"""Calls that wait, such as those of the store, beside an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from pynomaly_tasks.errors import StoreUnavailable

T = TypeVar("T")

#: Longer than any call of the store waits by itself, unless its server stands still.
STORE_ANSWER_S = 60.0
#: Of a call that nobody waits for any more.
_CANCELLED_ANSWER_S = 5.0


async def in_thread(call: Callable[[], T], timeout_s: float = STORE_ANSWER_S) -> T:
    """The call's answer, the event loop running on. Raises StoreUnavailable after ``timeout_s``.

    The thread is left behind then; as a daemon it keeps no process from ending. Cancelled, it waits
    for the call's end first, for some seconds at most.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(result)  # type: ignore[arg-type]  # None only where T is
        else:
            answer.set_exception(error)

    def run() -> None:
        try:
            result, error = call(), None
        except Exception as raised:
            result, error = None, raised
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="relay-store", daemon=True).start()
    try:
        done, _ = await asyncio.wait({answer}, timeout=timeout_s)
    except asyncio.CancelledError:
        # What it writes must not come after what is written next, such as a lease that is renewed
        # after it was given up.
        done, _ = await asyncio.wait({answer}, timeout=_CANCELLED_ANSWER_S)
        if done:
            answer.exception()  # taken, so that nobody reports it as never seen
        raise
    if not done:
        answer.cancel()
        raise StoreUnavailable(f"the job store gave no answer within {timeout_s:g} s")
    return answer.result()
