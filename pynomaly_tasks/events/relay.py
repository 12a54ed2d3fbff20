"""The relay: publishes the outbox, in order within a key, and nothing before its time.

Of all relays one publishes: the one with the lease in the store, by the store's clock. One that was
stopped for longer than its lease and goes on may append the batch it had in hand once more. That batch
starts at the oldest unsent event of each of its keys, so what it repeats is behind what it repeats.

Two batches are in hand at most: while one is being appended, the one before is marked and the next one
read and encoded. The log's memory of what is on its way is the producer's.
"""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import socket
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from pynomaly_tasks.core.retry import RetryPolicy
from pynomaly_tasks.errors import EventLogUnavailable, StoreUnavailable, Unavailable
from pynomaly_tasks.events.outbox_batch import Answers, Batch, Encode, Outcome, prepare, publish
from pynomaly_tasks.events.ports import Producer, Record
from pynomaly_tasks.events.relay_metrics import RelayMetrics
from pynomaly_tasks.events.relay_ports import Outbox, RelayOptions, Wake
from pynomaly_tasks.events.threads import in_thread
from pynomaly_tasks.telemetry import get_logger

log = get_logger(__name__)
T = TypeVar("T")

#: Two renewals may fail before another relay takes over.
_RENEWALS_PER_LEASE = 4
_FIRST_PAUSE_S = 0.1
_LAG_EVERY_S = 5.0
_PRUNE_EVERY_S = 60.0
_PRUNE_BATCH = 1_000
_PRUNE_PAUSE_S = 0.02  #: so that jobs get at SQLite's one lock in between
#: At the end, for giving up the lease: a store that hangs must not keep the process.
_LAST_WORDS_S = 5.0
_ALLOCATIONS_PER_COLLECTION = 20_000
#: Beyond the producer's own timeout, which it promises to keep.
_PRODUCER_GRACE_S = 5.0


class Relay:
    """Publishes the outbox while it has the lease, else stands by."""

    def __init__(
        self,
        outbox: Outbox,
        producer: Producer,
        encode: Encode,
        wake: Wake,
        options: RelayOptions,
        metrics: RelayMetrics,
    ) -> None:
        self._outbox = outbox
        self._producer = producer
        self._encode = encode
        self._wake = wake
        self._options = options
        self._metrics = metrics
        self._stopping = asyncio.Event()
        self._renew_now = asyncio.Event()
        self._leads_until_s = 0.0
        self._is_started = False
        self._log_outage = _Outage("event_log")
        self._store_outage = _Outage("store")
        self._backoff = RetryPolicy(backoff_s=_FIRST_PAUSE_S, backoff_max_s=options.backoff_max_s)
        self._n_pauses = 0
        #: Tells this relay from every other one.
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"

    def stop(self) -> None:
        """End `run` once the batch in hand is published and marked."""
        self._stopping.set()

    async def run(self) -> None:
        """Publish until `stop`. Outages of log, store and Redis are waited for."""
        watching = asyncio.create_task(self._watch_lag())
        try:
            while not self._stopping.is_set():
                try:
                    is_mine = await self._take_lease()
                    self._store_outage.end()
                    if is_mine:
                        await self._lead()
                    else:
                        await self._unless_stopping(self._wake.wait_for_vacancy(self._options.poll_s))
                except StoreUnavailable as error:
                    self._metrics.failures.labels("store").inc()
                    self._store_outage.begin(str(error))
                    await self._pause()
                except Exception:
                    # The outermost loop of the process: events of every key hang on it.
                    log.exception("relay_failed")
                    await self._pause()
        finally:
            await _end([watching])
            await self._close()

    async def _lead(self) -> None:
        log.info("relay_leads", holder=self.holder)
        self._metrics.leads.set(1)
        beside = [asyncio.create_task(self._renew()), asyncio.create_task(self._prune())]
        try:
            while self._may_publish():
                if await self._publish_what_waits():
                    self._n_pauses = 0
                    await self._unless_stopping(self._wake.wait(self._options.poll_s))
                else:
                    await self._pause()
        finally:
            self._metrics.leads.set(0)
            await _end(beside)
        if not self._stopping.is_set():
            log.warning("relay_lease_lost", holder=self.holder)

    def _may_publish(self) -> bool:
        return not self._stopping.is_set() and time.monotonic() < self._leads_until_s

    async def _publish_what_waits(self) -> bool:
        """Publish until nothing waits; False when the log is away."""
        batch = await self._read()
        settling: Outcome | None = None
        while batch.n_read and self._may_publish():
            outcome, following = await asyncio.gather(
                self._publish(batch), self._settle_and_read(settling, batch.numbers), return_exceptions=True
            )
            # Both went to their end: what was appended must be marked, whatever the other met.
            if isinstance(outcome, BaseException):
                raise outcome
            settling = outcome
            if isinstance(following, BaseException):
                await self._settle(outcome)
                raise following
            if outcome.away is not None:
                await self._settle(outcome)
                self._note_log_away(outcome.away)
                return False
            if outcome.sent:
                self._log_outage.end()
            batch = following
            batch.leave_out(outcome.waiting)
        if settling is not None:
            await self._settle(settling)
        return True

    async def _settle_and_read(self, settling: Outcome | None, in_hand: Sequence[int]) -> Batch:
        if settling is not None:
            await self._settle(settling)
        return await self._read(in_hand)

    async def _read(self, besides: Sequence[int] = ()) -> Batch:
        def read() -> Batch:
            return prepare(self._outbox.list_unsent(self._options.batch_size, besides), self._encode)

        return await in_thread(read)

    async def _publish(self, batch: Batch) -> Outcome:
        with self._metrics.batch_s.time():
            outcome = await publish(batch, self._append)
        for topic, n_sent in Counter(row.key[0] for row in outcome.sent).items():
            self._metrics.published.labels(topic).inc(n_sent)
        return outcome

    async def _append(self, records: Sequence[Record]) -> Answers:
        limit_s = self._options.producer_timeout_s + _PRODUCER_GRACE_S
        try:
            async with asyncio.timeout(limit_s):
                if not self._is_started:
                    # Set first: a start that was cut short must be stopped as well.
                    self._is_started = True
                    await self._producer.start()
                return await self._producer.send(records)
        except TimeoutError:
            await self._stop_producer()
            return [EventLogUnavailable(f"no answer within {limit_s:g} s")] * len(records)
        except Unavailable as error:
            await self._stop_producer()
            return [error] * len(records)
        except Exception as error:
            log.warning("producer_failed", reason=f"{type(error).__name__}: {error}", n_events=len(records))
            await self._stop_producer()
            raise

    async def _settle(self, outcome: Outcome) -> None:
        """Write down what became of a batch."""

        def settle() -> None:
            if outcome.sent:
                keep = self._options.keep_sent_s > 0
                self._outbox.mark_sent([row.number for row in outcome.sent], keep=keep)
            if outcome.failed:
                self._outbox.hold_back(outcome.failed, self._options.backoff_max_s)
            if outcome.refused:
                self._outbox.refuse(outcome.refused)

        await in_thread(settle)
        self._metrics.failures.labels("event").inc(len(outcome.failed))
        self._metrics.failures.labels("refused").inc(len(outcome.refused))
        for number, reason in outcome.failed.items():
            log.warning("event_held_back", number=number, reason=reason)
        for number, reason in outcome.refused.items():
            log.error("event_refused", number=number, reason=reason)

    async def _take_lease(self) -> bool:
        asked_at_s = time.monotonic()
        error = self._log_outage.reason
        taken = await in_thread(
            lambda: self._outbox.take_relay_lease(self.holder, self._options.lease_s, error)
        )
        self._leads_until_s = asked_at_s + self._options.lease_s if taken else 0.0
        return taken

    async def _renew(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._options.lease_s / _RENEWALS_PER_LEASE):
                    await self._renew_now.wait()
            self._renew_now.clear()
            with suppress(StoreUnavailable):  # the lease runs out; what needs the store says so
                await self._take_lease()

    async def _prune(self) -> None:
        while self._options.keep_sent_s > 0:
            with suppress(StoreUnavailable):
                while (
                    await in_thread(
                        lambda: self._outbox.prune_outbox(self._options.keep_sent_s, _PRUNE_BATCH)
                    )
                    == _PRUNE_BATCH
                ):
                    await asyncio.sleep(_PRUNE_PAUSE_S)
            await asyncio.sleep(_PRUNE_EVERY_S)

    async def _watch_lag(self) -> None:
        while True:
            started_s = time.monotonic()
            with suppress(StoreUnavailable):
                self._metrics.set_lag(await in_thread(self._outbox.get_outbox_lag))
            # Counting a million rows takes a while: at most a twentieth of the database's time.
            await asyncio.sleep(max(_LAG_EVERY_S, (time.monotonic() - started_s) * 20))

    def _note_log_away(self, reason: str) -> None:
        self._metrics.failures.labels("log").inc()
        if self._log_outage.reason is None:
            self._renew_now.set()  # people see the reason with the lease
        self._log_outage.begin(reason)

    async def _pause(self) -> None:
        self._n_pauses += 1
        await self._unless_stopping(asyncio.sleep(self._backoff.delay_s(min(self._n_pauses, 30))))

    async def _unless_stopping(self, waiting: Coroutine[Any, Any, None]) -> None:
        """Wait for it, but not longer than until `stop`."""
        stopping = asyncio.create_task(self._stopping.wait())
        task = asyncio.create_task(waiting)
        await asyncio.wait({stopping, task}, return_when=asyncio.FIRST_COMPLETED)
        await _end([stopping, task])

    async def _stop_producer(self) -> None:
        if not self._is_started:
            return
        self._is_started = False
        try:
            async with asyncio.timeout(self._options.producer_timeout_s + _PRODUCER_GRACE_S):
                await self._producer.stop()
        except Exception as error:
            # It may be what failed; the next one starts afresh.
            log.info("producer_not_stopped", reason=f"{type(error).__name__}: {error}")

    async def _close(self) -> None:
        try:
            await in_thread(lambda: self._outbox.give_up_relay_lease(self.holder), _LAST_WORDS_S)
        except StoreUnavailable as error:
            log.warning("relay_lease_kept", reason=str(error))
        else:
            if self._leads_until_s:
                await self._wake.tell_vacancy()
        await self._stop_producer()
        await self._wake.close()
        log.info("relay_stopped", holder=self.holder)


class _Outage:
    """Says once that a neighbour went, and once that it came back."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._since_s = 0.0
        self.reason: str | None = None

    def begin(self, reason: str) -> None:
        if self.reason is None:
            self._since_s = time.monotonic()
            log.error(f"{self._name}_away", reason=reason)
        self.reason = reason

    def end(self) -> None:
        if self.reason is not None:
            log.info(f"{self._name}_back", after_s=round(time.monotonic() - self._since_s, 3))
        self.reason = None


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    for answer in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(answer, Exception):
            log.error("relay_task_failed", reason=f"{type(answer).__name__}: {answer}")


async def run_until_signal(relay: Relay) -> None:
    """Run it until SIGTERM or SIGINT, in a process that does nothing else."""
    # Else Python looks at all that was imported, again and again, for each few batches: 40 % of the
    # time that an event takes. What a batch is made of goes with it, without a search for cycles.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS_PER_COLLECTION, 10, 10)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, relay.stop)
    await relay.run()
