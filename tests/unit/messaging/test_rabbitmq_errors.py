"""RabbitMQ's errors as ours, those that a real server shows too seldom to wait for."""

from __future__ import annotations

import asyncio

import pytest
from aiormq.exceptions import ConnectionInternalError

from pynomaly_tasks.errors import BrokerUnavailable
from pynomaly_tasks.messaging.backends.rabbitmq.link import Link
from pynomaly_tasks.messaging.plain_broker import LaneGone


async def _map(error: Exception) -> None:
    link = Link("amqp://127.0.0.1:1/", purpose="tests", connect_timeout_s=1.0, timeout_s=1.0)
    async with link.answered():
        raise error


def test_queue_that_is_deleted_while_it_is_asked_is_gone_and_no_outage() -> None:
    words = "Cannot get a message from queue 'queue 'app/q' in vhost '/'': noproc"  # of RabbitMQ 3.10
    with pytest.raises(LaneGone, match="noproc"):
        asyncio.run(_map(ConnectionInternalError("INTERNAL_ERROR", words)))


def test_other_internal_error_is_an_outage() -> None:
    with pytest.raises(BrokerUnavailable, match="timeout"):
        asyncio.run(_map(ConnectionInternalError("INTERNAL_ERROR", "timeout")))
