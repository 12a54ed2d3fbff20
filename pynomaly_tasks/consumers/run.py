"""Running groups: in a process of their own, or several in one."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from functools import lru_cache, partial

from pynomaly_tasks.bootstrap import Platform, build_platform
from pynomaly_tasks.consumers.groups import build_group
from pynomaly_tasks.core.event import Event
from pynomaly_tasks.errors import PynomalyError, StoreUnavailable
from pynomaly_tasks.events.cloudevents import decode
from pynomaly_tasks.events.consumer import ConsumerOptions, GroupConsumer
from pynomaly_tasks.events.consumer_metrics import ConsumerMetrics
from pynomaly_tasks.events.ports import StoredRecord
from pynomaly_tasks.events.threads import in_thread
from pynomaly_tasks.settings import load_settings
from pynomaly_tasks.telemetry import configure_logging, get_logger, serve_metrics

log = get_logger(__name__)

_PRUNE_EVERY_S = 600.0
_PRUNED_AT_ONCE = 10_000


@lru_cache(maxsize=1)
def _metrics() -> ConsumerMetrics:
    # One set a process, which Prometheus' registry insists on.
    return ConsumerMetrics()


def decoder(platform: Platform) -> Callable[[StoredRecord], Event]:
    """How this installation reads a message; raises BadEvent."""
    return partial(decode, max_bytes=platform.settings.events.max_event_kb * 1_024)


async def run_group(
    platform: Platform, name: str, stop: asyncio.Event, *, metrics: ConsumerMetrics | None = None
) -> None:
    """Be a member of the group until ``stop`` is set; then finish what is in hand, commit it, leave.

    Any number of members may run, here and elsewhere: each partition is read by one of them.
    Raises NotFound for an unknown group, InvalidSettings, and what no waiting can mend.
    """
    events = platform.settings.events
    group = await in_thread(lambda: build_group(platform, name))
    consumer = GroupConsumer(
        name,
        platform.event_consumer(name, group.topics),
        platform.event_producer(),
        group.effect,
        decoder(platform),
        options=ConsumerOptions(
            max_attempts=events.max_attempts,
            backoff_s=events.backoff_s,
            backoff_max_s=events.backoff_max_s,
            stop_timeout_s=events.stop_timeout_s,
            poll_records=events.consumer_batch,
        ),
        metrics=metrics or _metrics(),
    )
    pruning = asyncio.create_task(_prune(platform, name), name=f"inbox of {name}")
    try:
        await consumer.run(stop)
    finally:
        while not pruning.done():
            pruning.cancel()
            await asyncio.wait({pruning}, timeout=0.1)
        await group.effect.close()


def run_process(*names: str) -> None:
    """What a process of these groups does, from its settings to its end; exits with what is wrong with them."""
    try:
        settings = load_settings()
        configure_logging(level=settings.log.level, format=settings.log.format)
        platform = build_platform(settings)
        try:
            serve_groups(platform, *names)
        finally:
            platform.close()
    except PynomalyError as error:
        sys.exit(f"pynomaly {' '.join(names)}: {error}")


def serve_groups(platform: Platform, *names: str) -> None:
    """Run the groups in this process until SIGTERM or SIGINT, with metrics where the settings say so."""
    _metrics()
    serve_metrics(platform.settings.metrics.host, platform.settings.metrics.port)
    asyncio.run(_serve(platform, names))


async def _serve(platform: Platform, names: tuple[str, ...]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    running = [asyncio.create_task(run_group(platform, name, stop), name=name) for name in names]
    # One that fails ends the process, which whoever watches over it starts again; the others leave first.
    await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
    stop.set()
    await asyncio.wait(running)
    for task in running:
        task.result()


async def _prune(platform: Platform, name: str) -> None:
    """Forget what was applied so long ago that no log can bring it again."""
    age_s = platform.settings.events.keep_applied_days * 86_400
    while True:
        try:
            while await in_thread(lambda: platform.store.inbox.prune(name, age_s, _PRUNED_AT_ONCE)):
                pass
        except StoreUnavailable as error:
            log.warning("inbox_not_pruned", group=name, reason=str(error))
        await asyncio.sleep(_PRUNE_EVERY_S)
