"""Whether an MQTT broker keeps what a queue needs it to keep; no broker says so, so it is tried."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from pynomaly_tasks.errors import BrokerUnavailable
from pynomaly_tasks.messaging.backends.mqtt.hosting import Switchboard
from pynomaly_tasks.messaging.backends.mqtt.link import Arrival

#: What Mosquitto keeps for a session that is away unless it is told to keep more.
_USUAL_LIMIT = 1_000
#: Retained on a broker that has shown that it keeps more; outside of all namespaces.
_SHOWN = "pynomaly-tasks/keeps-more-than/1000"
_PATIENCE_S = 2.0


async def check_that_it_keeps(board: Switchboard) -> None:
    """Raise BrokerUnavailable where the broker drops messages of a session that is away."""
    async with board.lock(_SHOWN):
        if not await board.read_retained(_SHOWN):
            await _try(board)


async def _try(board: Switchboard) -> None:
    main = await board.connected()
    name = f"{board.topics.namespace}/try/{board.me}"
    n_arrived = 0
    is_all = asyncio.Event()

    def on_message(_: Arrival) -> None:
        nonlocal n_arrived
        n_arrived += 1
        if n_arrived > _USUAL_LIMIT:
            is_all.set()

    session = board.link(name, lambda _: None, keeps_session=True, clean_start=True)
    await session.connect()
    await session.listen(name)
    await session.disconnect()
    try:
        sent = [main.send(name, b"", qos=1) for _ in range(_USUAL_LIMIT + 1)]
        await asyncio.gather(*(main.answer(each) for each in sent))
        session = board.link(name, on_message, keeps_session=True, clean_start=False)
        await session.connect()
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                await is_all.wait()
        await session.disconnect()
    finally:
        session = board.plain_link(name, lambda _: None)
        await session.connect()
        await session.disconnect()
    if not is_all.is_set():
        raise BrokerUnavailable(
            f"the MQTT broker kept {n_arrived:,} of {_USUAL_LIMIT + 1:,} messages for a session that was away and "
            "dropped the others, so that queues would lose messages: set max_queued_messages to 0 (Mosquitto)"
        )
    await main.answer(main.send(_SHOWN, b"1", qos=1, retain=True))
