"""From the message to the task's first line, without waiting for the worker's event loop.

Celery gives a task to its pool and goes on with its loop: it asks the broker for the next message,
and the task waits for that. Here an idle worker lets the task begin first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from billiard.pool import RUN
from celery.concurrency import asynpool, prefork, thread
from kombu.serialization import registry
from kombu.utils.json import loads as kombu_loads

from pynomaly_tasks.transport.encoding import decode
from pynomaly_tasks.transport.guard import JSON

#: The main thread stands aside for so long. A thread of the pool needs about 0.1 ms to wake up and then
#: waits for Python's lock; a child of the pool is put on the processor of the process that wakes it. Both
#: would wait until the main process has asked for the next message, 0.3 ms later.
STAND_ASIDE_S = 0.0003

Execute = Callable[[Any], Any]


def begin_at_once(consumer: Any, is_alone: Callable[[], bool]) -> Execute:
    """The consumer's `on_task_request`, in such a way that the task begins before anything else.

    ``is_alone`` says whether the request is the only one that came: otherwise the next one is worth more.
    """
    execute: Execute = consumer.on_task_request
    if consumer.hub is None or not isinstance(consumer.pool, prefork.TaskPool | thread.TaskPool):
        return execute

    def begin(request: Any) -> None:
        execute(request)
        if not is_alone():
            return
        if not isinstance(consumer.pool, prefork.TaskPool):
            time.sleep(STAND_ASIDE_S)
        elif processes := consumer.pool._pool:
            children = _write_at_once(processes, consumer.hub)
            time.sleep(STAND_ASIDE_S)
            for child in children:
                # That it has begun: Celery makes its pool smaller by a child that has not told so yet.
                processes.handle_result_event(child.outqR_fd)

    return begin


def _write_at_once(processes: Any, hub: Any) -> list[Any]:
    """What the event loop does at the end of its next turn, in the same way: by the pool's own function.

    A child may die at any time, after this as after the loop's own look at it. Then the pool finds the
    task written to a child that is gone and not accepted by it, and gives it to another one. What the
    loop would have noticed by now is looked at here: whether the child still lives. Returns the
    children that were given a task.
    """
    # With the "fast" strategy busy children are given tasks too, and only a poll tells whose pipe has
    # room. An idle child has read all of its pipe.
    if processes._state != RUN or processes.sched_strategy != asynpool.SCHED_STRATEGY_FAIR:
        return []
    children = []
    for inqueue in processes._all_inqueues - processes._busy_workers - processes._active_writes:
        if not processes.outbound_buffer:
            break
        child = processes._fileno_to_inq.get(inqueue)
        if child is not None and child._is_alive() and not child._controlled_termination:
            hub.consolidate_callback([inqueue])
            children.append(child)
    return children


def decode_once(execute: Execute) -> Execute:
    """Give the task its arguments as the main process has read them.

    Celery gives it the message's body as well, which holds the same once more, to be decoded again.
    """
    if registry._decoders.get(JSON) not in (kombu_loads, decode):
        return execute  # the application's own, which only the body has not been through

    def give(request: Any) -> None:
        if request.content_type == JSON:
            request._body = request._payload
            request._content_type = request._content_encoding = None
        execute(request)

    return give
