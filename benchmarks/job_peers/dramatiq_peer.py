"""dramatiq on Redis, without results (its default)."""

import sys

import dramatiq
from common import REDIS_URL, count
from dramatiq.brokers.redis import RedisBroker

dramatiq.set_broker(RedisBroker(url=f"{REDIS_URL}/3"))


@dramatiq.actor
def noop() -> None:
    count()


def submit() -> None:
    noop.send()


submit_many = None  # it has no call for many
WORKERS = [[sys.executable, "-m", "dramatiq", "dramatiq_peer", "--processes", "2", "--threads", "1"]]
