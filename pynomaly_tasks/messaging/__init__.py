"""Message queues: one interface over several brokers, with guarantees that hold.

A library of its own; nothing else of the platform is needed to use it. `QueueManager` makes queues,
sends and receives; `Worker` runs handlers; a backend of `backends` brings the broker.
"""

from pynomaly_tasks.messaging.backend import Backend, Measure
from pynomaly_tasks.messaging.backends import (
    BACKEND_NAMES,
    build_backend,
    build_custom_backend,
    capability_table,
)
from pynomaly_tasks.messaging.breaker import BreakerPolicy, Circuit, WhenOpen
from pynomaly_tasks.messaging.building import build_manager
from pynomaly_tasks.messaging.capabilities import Capabilities, Support, capability_rows
from pynomaly_tasks.messaging.codec import Codec, CodecLimits
from pynomaly_tasks.messaging.dead_letters import DeadLetter, DeadLetters, Reason
from pynomaly_tasks.messaging.delivery import Delivery
from pynomaly_tasks.messaging.manager import Health, QueueManager, QueueStatistics
from pynomaly_tasks.messaging.message import Guarantee, Message
from pynomaly_tasks.messaging.options import (
    HIGH_THROUGHPUT,
    RELIABLE,
    STANDARD,
    Kind,
    Overflow,
    QueueOptions,
)
from pynomaly_tasks.messaging.publishing import Route
from pynomaly_tasks.messaging.receipt import Receipt
from pynomaly_tasks.messaging.topics import TopicTrie
from pynomaly_tasks.messaging.worker import Later, Reject, Worker, WorkerStatistics

__all__ = [
    "BACKEND_NAMES",
    "HIGH_THROUGHPUT",
    "RELIABLE",
    "STANDARD",
    "Backend",
    "BreakerPolicy",
    "Capabilities",
    "Circuit",
    "Codec",
    "CodecLimits",
    "DeadLetter",
    "DeadLetters",
    "Delivery",
    "Guarantee",
    "Health",
    "Kind",
    "Later",
    "Measure",
    "Message",
    "Overflow",
    "QueueManager",
    "QueueOptions",
    "QueueStatistics",
    "Reason",
    "Receipt",
    "Reject",
    "Route",
    "Support",
    "TopicTrie",
    "WhenOpen",
    "Worker",
    "WorkerStatistics",
    "build_backend",
    "build_custom_backend",
    "build_manager",
    "capability_rows",
    "capability_table",
]
