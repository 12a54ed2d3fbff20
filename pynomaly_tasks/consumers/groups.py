"""Every group by name: ours, and those that have handlers in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from pynomaly_tasks.errors import NotFound
from pynomaly_tasks.events.effect import Effect
from pynomaly_tasks.events.handlers import HANDLERS, HandlerEffect, topics_of

if TYPE_CHECKING:
    from pynomaly_tasks.bootstrap import Platform


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """What a group reads, and what it does about it."""

    name: str
    topics: tuple[str, ...]
    effect: Effect


def build_group(platform: Platform, name: str) -> Group:
    """The group of that name. Raises NotFound, InvalidSettings; connects to nothing but the store."""
    build = _OURS.get(name)
    if build is not None:
        return build(platform)
    try:
        handlers = HANDLERS.of(name)
    except NotFound as error:
        raise NotFound(f"{error}. Ours: {', '.join(OURS)}") from None
    events = platform.settings.events
    return Group(
        name=name,
        topics=topics_of(handlers),
        effect=HandlerEffect(
            handlers, platform.store.inbox, timeout_s=events.handler_timeout_s, own_source=events.source
        ),
    )


def _dashboard(platform: Platform) -> Group:
    from pynomaly_tasks.consumers.dashboard import TOPICS, DashboardEffect
    from pynomaly_tasks.realtime.relay import FrameRelay

    settings = platform.settings
    relay = FrameRelay(settings.redis.streams(), stream_length=settings.live.stream_length)
    return Group(
        name="dashboard", topics=TOPICS, effect=DashboardEffect(relay, own_source=settings.events.source)
    )


def _audit(platform: Platform) -> Group:
    from pynomaly_tasks.consumers.audit import GROUP, TOPICS, AuditEffect

    events = platform.settings.events
    effect = AuditEffect(platform.store.audit, own_source=events.source, batch_size=events.consumer_batch)
    return Group(name=GROUP, topics=TOPICS, effect=effect)


def _alerts(platform: Platform) -> Group:
    from pynomaly_tasks.consumers.alerts import TOPICS, AlertsEffect

    settings = platform.settings
    effect = AlertsEffect(platform.submit, settings.alerts, own_source=settings.events.source)
    return Group(name="alerts", topics=TOPICS, effect=effect)


def _webhooks(platform: Platform) -> Group:
    from pynomaly_tasks.consumers.webhooks import TOPICS, WebhooksEffect
    from pynomaly_tasks.senders.webhook import build_webhooks

    settings = platform.settings
    webhooks = build_webhooks(settings.webhooks.endpoints, settings.webhooks.timeout_s)
    webhooks.check()
    effect = WebhooksEffect(platform.submit, webhooks, own_source=settings.events.source)
    return Group(name="webhooks", topics=TOPICS, effect=effect)


_OURS: Mapping[str, Callable[[Platform], Group]] = MappingProxyType(
    {"dashboard": _dashboard, "audit": _audit, "alerts": _alerts, "webhooks": _webhooks}
)
#: The groups that the platform itself has.
OURS = tuple(_OURS)
