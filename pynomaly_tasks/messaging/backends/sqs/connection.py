"""Amazon SQS's client, as the broker uses it: an address, one call, errors that are ours."""

from __future__ import annotations

import asyncio
import functools
import io
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import aiobotocore  # noqa: F401  # absent, it is told when the backend is chosen; the rest binds a socket as it is imported
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from pynomaly_tasks.errors import BrokerUnavailable, InvalidSettings, MessagingClosed
from pynomaly_tasks.messaging.plain_broker import LaneGone

_NO_SUCH_QUEUE = frozenset(
    {
        "AWS.SimpleQueueService.NonExistentQueue",
        "QueueDoesNotExist",
        "AWS.SimpleQueueService.QueueDoesNotExist",
    }
)
_MAX_CONNECTIONS = 50
_LARGE_BYTES = 500_000


class NotInFlight(Exception):
    """The receipt is of a message that is not held any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SqsAddress:
    """Where the service is: ``sqs://[KEY:SECRET@]REGION[?endpoint=URL][&fifo=true]``."""

    region: str
    endpoint: str | None
    key: str | None
    secret: str | None
    fifo: bool

    @classmethod
    def read(cls, url: str) -> SqsAddress:
        """Raises InvalidSettings, and does not repeat the secret."""
        parts = urlsplit(url)
        options = parse_qs(parts.query, keep_blank_values=True)
        unknown = sorted(set(options) - {"endpoint", "fifo"})
        if parts.scheme != "sqs" or not parts.hostname or parts.path.strip("/") or unknown:
            raise InvalidSettings.of(
                "messaging.url",
                "is no address of SQS; write sqs://REGION, sqs://REGION?endpoint=http://HOST:PORT for another "
                "server, &fifo=true for queues in strict order",
            )
        fifo = options.get("fifo", ["false"])[-1].lower()
        if fifo not in {"true", "false"}:
            raise InvalidSettings.of("messaging.url", f"has fifo={fifo:.20}; it is true or false")
        return cls(
            region=parts.hostname,
            endpoint=options.get("endpoint", [None])[-1],
            key=unquote(parts.username) if parts.username else None,
            secret=unquote(parts.password) if parts.password else None,
            fifo=fifo == "true",
        )


class SqsConnection:
    """One client. Credentials are the address's, or those that the AWS tools find: environment, profile, role."""

    def __init__(self, address: SqsAddress, *, connect_timeout_s: float, timeout_s: float) -> None:
        self.address = address
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._stack = AsyncExitStack()
        self._client: Any = None

    async def open(self) -> None:
        """Nothing is sent yet."""
        from aiobotocore.config import AioConfig
        from aiobotocore.session import get_session

        config = AioConfig(
            connect_timeout=self._connect_timeout_s,
            read_timeout=self._timeout_s + 20.0,
            # One try: a second one after a lost answer would send a message twice.
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=_MAX_CONNECTIONS,
        )
        session = get_session()
        session.register_component("data_loader", _model())
        client = session.create_client(
            "sqs",
            region_name=self.address.region,
            endpoint_url=self.address.endpoint,
            aws_access_key_id=self.address.key,
            aws_secret_access_key=self.address.secret,
            config=config,
        )
        self._stack = AsyncExitStack()
        self._client = await self._stack.enter_async_context(client)
        self._client.meta.events.register("before-send.sqs", _as_stream)

    async def close(self) -> None:
        """Calls that wait fail with MessagingClosed."""
        self._client = None
        await self._stack.aclose()

    def check_open(self) -> None:
        """Raise MessagingClosed unless it is."""
        if self._client is None:
            raise MessagingClosed("the sqs backend is not open; use it in `async with`, or call open()")

    async def call(self, action: str, *, wait_s: float = 0.0, **arguments: Any) -> Mapping[str, Any]:
        """One request. Raises LaneGone, NotInFlight, BrokerUnavailable; ``wait_s``: that the service may take longer."""
        self.check_open()
        try:
            async with asyncio.timeout(self._timeout_s + wait_s):
                answer: Mapping[str, Any] = await getattr(self._client, action)(**arguments)
        except (TimeoutError, BotoCoreError, ClientError, RuntimeError, OSError) as error:
            # A client that is closed while it waits fails in ways of its own.
            self.check_open()
            raise _ours(action, error) from error
        return answer

    async def batch(self, action: str, url: str, entries: list[dict[str, Any]]) -> list[bool]:
        """Up to ten entries in one request; which of them were done. Raises BrokerUnavailable for other failures."""
        numbered = [{"Id": str(n), **entry} for n, entry in enumerate(entries)]
        answer = await self.call(action, QueueUrl=url, Entries=numbered)
        failed = {int(each["Id"]): each for each in answer.get("Failed", ())}
        for each in failed.values():
            if not each.get("SenderFault"):
                raise BrokerUnavailable(
                    f"SQS did not do {action} for some: {each.get('Code')}: {each.get('Message')}"
                )
        return [n not in failed for n in range(len(entries))]


def _as_stream(request: Any, **_: Any) -> None:
    """aiohttp writes large bytes at once, which holds up the loop, and says so."""
    if isinstance(request.body, bytes) and len(request.body) > _LARGE_BYTES:
        request.body = io.BytesIO(request.body)


@functools.cache
def _model() -> Any:
    """The description of the service, which takes a tenth of a second to read: once a process."""
    from botocore.loaders import create_loader

    return create_loader()


def _ours(action: str, error: Exception) -> Exception:
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in _NO_SUCH_QUEUE:
            return LaneGone(f"SQS knows no such queue ({action})")
        if code in {
            "ReceiptHandleIsInvalid",
            "MessageNotInflight",
            "AWS.SimpleQueueService.MessageNotInflight",
        }:
            return NotInFlight(code)
        return BrokerUnavailable(
            f"SQS refused {action}: {code}: {error.response.get('Error', {}).get('Message', '')}"
        )
    if isinstance(error, NoCredentialsError):
        return BrokerUnavailable(
            "there are no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role, "
            "or write them into the address: sqs://KEY:SECRET@REGION"
        )
    if isinstance(error, TimeoutError):
        return BrokerUnavailable(f"SQS gave no answer to {action} in time")
    return BrokerUnavailable(f"SQS gave no answer to {action}: {type(error).__name__}: {error}")
