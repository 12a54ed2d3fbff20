"""Runs handlers for messages: several at once, each under a lease that is kept up while it works."""

from __future__ import annotations

import asyncio
import inspect
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

from pynomaly_tasks.errors import AlreadySettled, InvalidQueue, LeaseLost, Unavailable
from pynomaly_tasks.messaging.breaker import BreakerPolicy, Circuit, CircuitBreaker, WhenOpen
from pynomaly_tasks.messaging.dead_letters import Reason
from pynomaly_tasks.messaging.delivery import Delivery, extend_all
from pynomaly_tasks.messaging.manager import QueueManager
from pynomaly_tasks.messaging.message import Message
from pynomaly_tasks.telemetry import get_logger

log = get_logger(__name__)

Handler = Callable[[Message], Any]

#: A stop is noticed within this while no messages come.
_WAIT_S = 1.0
#: Two renewals may fail before another consumer gets the message.
_RENEWALS_PER_LEASE = 4
_LONGEST_PAUSE_S = 5.0
_SETTLE_TRIES = 6


class Reject(Exception):
    """Raised by a handler: this message can never be done; it becomes a dead letter at once."""


class Later(Exception):
    """Raised by a handler: hand this message out again after ``delay_s``; it is not counted as a try."""

    def __init__(self, delay_s: float) -> None:
        super().__init__(f"again in {delay_s:g} s")
        self.delay_s = delay_s


@dataclass(slots=True)
class WorkerStatistics:
    """Since the worker was made."""

    n_done: int = 0
    n_failed: int = 0  #: tries that raised, timeouts among them
    n_rejected: int = 0
    n_timed_out: int = 0
    n_given_back: int = 0  #: taken, and handed back untried
    n_lost: int = 0  #: the lease ended in spite of the renewals, or the queue was deleted
    n_in_hand: int = 0  #: now


class Worker:
    """Handles the messages of some queues.

    A handler takes a `Message`. Returning acknowledges it; an exception is a failed try, after the
    queue's retries; `Reject` makes it a dead letter; `Later` has it handed out again. A coroutine is cancelled at ``handler_timeout_s``;
    a plain function runs in a thread, cannot be interrupted and so takes no timeout. A coroutine must
    not block the loop for longer than a lease: its own lease could not be renewed meanwhile.
    """

    def __init__(
        self,
        manager: QueueManager,
        queues: Sequence[str],
        *,
        concurrency: int = 10,
        batch_size: int = 10,
        handler_timeout_s: float | None = None,
        breaker: BreakerPolicy | None = None,
        observe: Callable[[str, str, float], None] = lambda queue, outcome, seconds: None,
    ) -> None:
        """``concurrency``: handlers at once, over all queues; ``batch_size``: most messages of one fetch.

        ``observe`` is called for each try with its queue, how it ended (done, failed, rejected, later)
        and the seconds that the handler took.
        """
        for name, value, most in (("concurrency", concurrency, 10_000), ("batch_size", batch_size, 1_000)):
            if type(value) is not int or not 1 <= value <= most:
                raise InvalidQueue.of(name, f"is {value!r}; it must be a whole number, 1 to {most:,}")
        if handler_timeout_s is not None and not handler_timeout_s > 0:
            raise InvalidQueue.of(
                "handler_timeout_s", f"is {handler_timeout_s!r}; it must be seconds above 0"
            )
        if not queues:
            raise InvalidQueue.of("queues", "is empty; name at least one")
        self.statistics = WorkerStatistics()
        self._manager = manager
        self._queues = tuple(dict.fromkeys(queues))
        self._batch_size = batch_size
        self._handler_timeout_s = handler_timeout_s
        self._observe = observe
        self._breakers = {queue: CircuitBreaker(breaker) for queue in self._queues} if breaker else {}
        self._handlers: dict[tuple[str, str], Handler] = {}
        self._slots = asyncio.Semaphore(concurrency)
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._renews_every_s = _WAIT_S
        self._in_hand: dict[Delivery, asyncio.Task[None]] = {}
        self._lost_tasks: WeakSet[asyncio.Task[None]] = WeakSet()

    def add_handler(self, handler: Handler, *, queue: str = "", type: str = "") -> None:  # noqa: A002  # the message's field
        """Have ``handler`` called for messages of a queue, of a type, of both, or (neither) for all others.

        Queue and type goes before type, type before queue. Raises InvalidQueue for one that is taken.
        """
        if (queue, type) in self._handlers:
            raise InvalidQueue.of("handler", f"there is one for queue {queue!r} and type {type!r} already")
        if queue and queue not in self._queues:
            raise InvalidQueue.of(
                "handler", f"is for {queue!r}, and this worker takes {', '.join(self._queues)}"
            )
        if self._handler_timeout_s is not None and not inspect.iscoroutinefunction(handler):
            raise InvalidQueue.of(
                "handler",
                "is a plain function, which cannot be interrupted: make it async, or set no handler_timeout_s",
            )
        self._handlers[queue, type] = handler

    def circuit(self, queue: str) -> Circuit:
        """Of a queue; closed where no breaker was asked for."""
        return self._breakers[queue].state if queue in self._breakers else Circuit.CLOSED

    def stop(self) -> None:
        """Finish what is in hand, take nothing more, and let `run` return."""
        self._stopping.set()

    async def run(self, *, handle_signals: bool = True) -> None:
        """Until `stop`, or SIGTERM or SIGINT. A broker that is away is waited for. Raises NotFound for no such queue."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT) if handle_signals else ()
        for number in signals:
            loop.add_signal_handler(number, self.stop)
        renewal = asyncio.create_task(self._renew())
        try:
            async with asyncio.TaskGroup() as group:
                for queue in self._queues:
                    group.create_task(self._fetch(queue))
        except ExceptionGroup as failed:
            self.stop()
            raise failed.exceptions[0] from None
        finally:
            if self._in_hand:
                await asyncio.wait(list(self._in_hand.values()))
            renewal.cancel()
            with suppress(asyncio.CancelledError):
                await renewal
            for number in signals:
                loop.remove_signal_handler(number)

    async def run_once(self) -> int:
        """Handle what waits now, until every queue is empty; how many tries that were. For cron."""
        renewal = asyncio.create_task(self._renew())
        n = 0
        try:
            while not self._stopping.is_set():
                found = [
                    d
                    for queue in self._queues
                    if self._may_fetch(queue)
                    for d in await self._receive(queue, 0.0)
                ]
                if not found:
                    break
                await asyncio.gather(*(self._start(delivery) for delivery in found))
                n += len(found)
        finally:
            renewal.cancel()
            with suppress(asyncio.CancelledError):
                await renewal
        return n

    def _may_fetch(self, queue: str) -> bool:
        breaker = self._breakers.get(queue)
        is_open = breaker is not None and breaker.state is Circuit.OPEN
        return not is_open or (breaker is not None and breaker.policy.when_open is WhenOpen.DEAD_LETTER)

    async def _fetch(self, queue: str) -> None:
        """Take and start messages of one queue until the worker stops."""
        pause_s = 0.1
        while not self._stopping.is_set():
            if not self._may_fetch(queue):
                await self._pause(self._breakers[queue].open_for_s)
                continue
            await self._slot_free()
            try:
                deliveries = await self._receive(queue, _WAIT_S)
            except Unavailable as error:
                log.warning("broker_away", queue=queue, error=str(error), next_try_in_s=pause_s)
                await self._pause(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            pause_s = 0.1
            tasks = [self._start(delivery) for delivery in deliveries]
            if self.circuit(queue) is Circuit.HALF_OPEN and tasks:
                await asyncio.wait(tasks)  # the one decides

    async def _receive(self, queue: str, wait_s: float) -> list[Delivery]:
        n = 1 if self.circuit(queue) is Circuit.HALF_OPEN else self._batch_size
        return await self._manager.receive(queue, max_messages=n, wait_s=wait_s)

    async def _slot_free(self) -> None:
        """Until a handler could start: what is taken before that only lies here."""
        async with self._slots:
            pass

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    def _start(self, delivery: Delivery) -> asyncio.Task[None]:
        task = asyncio.create_task(self._work_on(delivery))
        self._in_hand[delivery] = task
        if delivery.lease_s / _RENEWALS_PER_LEASE < self._renews_every_s:
            self._hurry.set()
        self.statistics.n_in_hand = len(self._in_hand)
        task.add_done_callback(lambda _: self._forget(delivery))
        return task

    def _forget(self, delivery: Delivery) -> None:
        self._in_hand.pop(delivery, None)
        self.statistics.n_in_hand = len(self._in_hand)

    async def _work_on(self, delivery: Delivery) -> None:
        try:
            async with self._slots:
                await self._try(delivery)
        except asyncio.CancelledError:
            # By the renewal: another consumer has it. There is nothing left to settle.
            if asyncio.current_task() not in self._lost_tasks:
                raise
        except (LeaseLost, AlreadySettled, Unavailable) as error:
            self.statistics.n_lost += 1
            log.warning(
                "message_not_settled", message_id=delivery.message.id, queue=delivery.queue, error=str(error)
            )

    async def _try(self, delivery: Delivery) -> None:
        breaker = self._breakers.get(delivery.queue)
        if breaker is not None and breaker.state is Circuit.OPEN:
            await self._while_open(delivery, breaker)
            return
        if self._stopping.is_set() and not delivery.is_settled:
            await _settle(delivery.give_back)
            self.statistics.n_given_back += 1
            return
        message = delivery.message
        handler = self._find_handler(delivery)
        if handler is None:
            self.statistics.n_rejected += 1
            await _settle(
                lambda: delivery.reject(f"this worker has no handler for the type {message.type!r}")
            )
            return
        began_s = time.monotonic()

        def observe(outcome: str) -> None:
            self._observe(delivery.queue, outcome, time.monotonic() - began_s)

        try:
            await self._call(handler, message)
        except Later as later:
            observe("later")
            delay_s = later.delay_s
            await self._end(delivery, lambda: delivery.give_back(delay_s=delay_s))
        except Reject as error:
            observe("rejected")
            self.statistics.n_rejected += 1
            why = str(error)
            await self._end(delivery, lambda: delivery.reject(why))
        except Exception as error:
            observe("failed")
            self.statistics.n_failed += 1
            if breaker is not None:
                breaker.failed()
            why = f"{type(error).__name__}: {error}"
            log.warning(
                "message_failed",
                message_id=message.id,
                queue=delivery.queue,
                attempt=delivery.attempt,
                error=why,
            )
            await self._end(delivery, lambda: delivery.nack(why))
        else:
            observe("done")
            if breaker is not None:
                breaker.succeeded()
            await _settle(delivery.ack)
            self.statistics.n_done += 1

    async def _end(self, delivery: Delivery, settle: Callable[[], Awaitable[None]]) -> None:
        if not delivery.is_settled:  # a fire_and_forget message is, and is not tried again
            await _settle(settle)

    async def _while_open(self, delivery: Delivery, breaker: CircuitBreaker) -> None:
        """It was taken before the circuit opened, or to be put away."""
        if delivery.is_settled:
            return
        if breaker.policy.when_open is WhenOpen.DEAD_LETTER:
            self.statistics.n_rejected += 1
            error = f"{breaker.policy.n_failures} messages before it failed in a row"
            await _settle(lambda: delivery.reject(error, reason=Reason.CIRCUIT_OPEN))
        else:
            self.statistics.n_given_back += 1
            await _settle(delivery.give_back)

    def _find_handler(self, delivery: Delivery) -> Handler | None:
        queue, kind = delivery.queue, delivery.message.type
        for key in ((queue, kind), ("", kind), (queue, ""), ("", "")):
            if (handler := self._handlers.get(key)) is not None:
                return handler
        return None

    async def _call(self, handler: Handler, message: Message) -> None:
        if not inspect.iscoroutinefunction(handler):
            answer = await asyncio.to_thread(handler, message)
            if inspect.isawaitable(answer):
                await answer
            return
        try:
            async with asyncio.timeout(self._handler_timeout_s) as limit:
                await handler(message)
        except TimeoutError:
            if not limit.expired():
                raise  # the handler's own
            self.statistics.n_timed_out += 1
            raise TimeoutError(f"the handler took longer than {self._handler_timeout_s:g} s") from None

    async def _renew(self) -> None:
        """Keep up the leases of what is in hand; stop handlers whose message went to somebody else."""
        while True:
            shortest_s = min((delivery.lease_s for delivery in self._in_hand), default=60.0)
            self._renews_every_s = min(shortest_s / _RENEWALS_PER_LEASE, _WAIT_S)
            self._hurry.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), self._renews_every_s)
                continue  # a shorter lease came in meanwhile
            try:
                lost = await extend_all(list(self._in_hand))
            except Unavailable as error:
                log.warning("leases_not_renewed", error=str(error))
                continue
            for delivery in lost:
                task = self._in_hand.get(delivery)
                if task is not None and not delivery.is_settled:
                    self.statistics.n_lost += 1
                    log.warning("message_lost", message_id=delivery.message.id, queue=delivery.queue)
                    self._lost_tasks.add(task)
                    task.cancel()


async def _settle(settle: Callable[[], Awaitable[None]]) -> None:
    """Try for a while, should the broker be away: what was done once need not be done again."""
    for n in range(_SETTLE_TRIES):
        try:
            await settle()
        except Unavailable:
            if n == _SETTLE_TRIES - 1:
                raise
            await asyncio.sleep(0.1 * 2**n)
        else:
            return
