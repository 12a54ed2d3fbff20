"""Queues on Azure Event Hubs, through its Kafka endpoint: as `kafka`, with what differs below.

| what | how |
|---|---|
| address | the connection string of a namespace, of a policy with Manage: ``Endpoint=sb://...;SharedAccessKeyName=...;SharedAccessKey=...`` |
| login | TLS, SASL PLAIN, user ``$ConnectionString`` |
| event hubs | one a lane and one for the ledger; a namespace of the standard tier has ten |
| used of Kafka | produce (idempotent), fetch, list offsets, create and delete topics; no groups, no transactions |
| deleting | Event Hubs has no `DeleteRecords`: its retention deletes by age, settled or not, so a message that waits longer than the retention (an hour to seven days, 90 days premium) is lost |
| time | event hubs must stamp with `LogAppend`, as they do unless told otherwise |
| size | 1 MB a message, so 750,000 bytes of what is sent |

The ledger is deleted by age too: an open process writes its state into it once an hour. A namespace that
nobody opens for longer than the retention forgets its queues with their messages.
"""

from __future__ import annotations

import re
from dataclasses import replace

from pynomaly_tasks.errors import InvalidSettings
from pynomaly_tasks.messaging.backends.abilities import EVENT_HUBS
from pynomaly_tasks.messaging.backends.kafka.address import KafkaAddress
from pynomaly_tasks.messaging.backends.kafka.broker import KafkaBroker

_PORT, _EMULATOR_PORT = 9093, 9092
#: Of the 1 MB of a message; a dead letter, with its bytes in base64, must fit into it too.
_MAX_ITEM_BYTES = 750_000
_NEEDED = ("Endpoint", "SharedAccessKeyName", "SharedAccessKey")
_KNOWN = (*_NEEDED, "EntityPath", "UseDevelopmentEmulator", "CaFile")


class EventHubsBroker(KafkaBroker):
    """A connection to the lanes of one namespace of queues.

    ``url``: the connection string. Two of its parts are ours: ``UseDevelopmentEmulator=true`` connects
    without TLS, as Microsoft's emulator wants it, and ``CaFile=/path`` names the authorities to trust.
    """

    name = "event_hubs"
    capabilities = EVENT_HUBS
    traits = replace(KafkaBroker.traits, max_item_bytes=_MAX_ITEM_BYTES)
    topic_config: dict[str, str] = {}  # never changed; Event Hubs knows few of Kafka's
    can_delete_records = False

    def _parse(self, url: str) -> tuple[KafkaAddress, dict[str, str]]:
        return parse_connection_string(url), {}


def parse_connection_string(text: str) -> KafkaAddress:
    """Where it points to. Raises InvalidSettings, which names the part that is wrong and shows no key."""
    parts: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, _, value = part.partition("=")  # a key ends with "="
        parts[name] = value
    if missing := [name for name in _NEEDED if not parts.get(name)]:
        raise _bad(
            f"lacks {', '.join(missing)}; it is the connection string of an Event Hubs namespace: "
            "Endpoint=sb://...;SharedAccessKeyName=...;SharedAccessKey=..."
        )
    if unknown := sorted(set(parts) - set(_KNOWN)):
        raise _bad(f"has the part {unknown[0]!r:.40}; the parts are {', '.join(_KNOWN)}")
    if "EntityPath" in parts:
        raise _bad(
            f"names one event hub (EntityPath={parts['EntityPath']!r:.60}); queues need several: take the "
            "connection string of a policy of the namespace, with Manage"
        )
    found = re.fullmatch(r"sb://([A-Za-z0-9.-]+)(?::(\d{1,5}))?/?", parts["Endpoint"])
    if found is None:
        raise _bad(f"has the Endpoint {parts['Endpoint']!r:.80}; it must be sb://<host>/")
    is_emulator = parts.get("UseDevelopmentEmulator", "").lower() == "true"
    port = found[2] or (_EMULATOR_PORT if is_emulator else _PORT)
    return KafkaAddress(
        servers=f"{found[1]}:{port}",
        security_protocol="SASL_PLAINTEXT" if is_emulator else "SASL_SSL",
        username="$ConnectionString",
        password=";".join(f"{name}={value}" for name, value in parts.items() if name != "CaFile"),
        ca_file=parts.get("CaFile"),
    )


def _bad(why: str) -> InvalidSettings:
    return InvalidSettings.of("messaging.url", why)
