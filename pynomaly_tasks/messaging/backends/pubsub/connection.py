"""One connection to Google Cloud Pub/Sub, or to its emulator; what is asked for, and the errors as ours."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlsplit

import grpc
from google.api_core.exceptions import GoogleAPIError, NotFound
from google.auth.exceptions import GoogleAuthError

from pynomaly_tasks.errors import BrokerUnavailable, InvalidSettings, MessagingClosed
from pynomaly_tasks.messaging.plain_broker import LaneGone

if TYPE_CHECKING:
    from google.pubsub_v1.services.publisher import PublisherAsyncClient
    from google.pubsub_v1.services.subscriber import SubscriberAsyncClient

_SERVICE = "pubsub.googleapis.com"
_SCOPES = ("https://www.googleapis.com/auth/pubsub",)
_PROJECT = re.compile(r"[a-z][a-z0-9:.-]{4,61}[a-z0-9]")
#: Pub/Sub takes 255 characters.
_LONGEST_ID = 240


@dataclass(frozen=True, slots=True)
class Address:
    """``pubsub://project``; ``?endpoint=127.0.0.1:8085`` is an emulator, ``ordering=true`` asks for ordering keys."""

    project: str
    endpoint: str | None
    is_ordered: bool

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises InvalidSettings."""
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        unknown = sorted(set(options) - {"endpoint", "ordering"})
        if parts.scheme != "pubsub" or not _PROJECT.fullmatch(parts.netloc) or parts.path not in ("", "/"):
            raise _invalid("must be pubsub:// with the id of a project, such as pubsub://my-project")
        if unknown:
            raise _invalid(f"has the option {unknown[0]!r:.40}; there are endpoint and ordering")
        if options.get("ordering", "false") not in ("true", "false"):
            raise _invalid("says ordering, which is true or false")
        return cls(parts.netloc, options.get("endpoint"), options.get("ordering") == "true")


def _invalid(why: str) -> InvalidSettings:
    return InvalidSettings.of("messaging.url", why)


class PubSubConnection:
    """Both clients over one channel, and the names of things in a project."""

    def __init__(self, url: str, namespace: str, connect_timeout_s: float, timeout_s: float) -> None:
        self.address = Address.parse(url)
        self.timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        # Pub/Sub wants a letter first, and not "goog".
        self.prefix = quote(f"q.{namespace}.", safe="._~+-")
        self._channel: grpc.aio.Channel | None = None
        self._publisher: PublisherAsyncClient | None = None
        self._subscriber: SubscriberAsyncClient | None = None

    async def open(self) -> None:
        """Raises BrokerUnavailable within the connect timeout."""
        await asyncio.to_thread(importlib.import_module, "google.pubsub_v1")  # takes a second, once
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                with self.mapped_errors():
                    await self._connect()
        except TimeoutError:
            await self.close()
            raise BrokerUnavailable("Pub/Sub gave no answer within the connect timeout") from None
        except BaseException:
            await self.close()
            raise

    async def _connect(self) -> None:
        # Here and not above: they bind a socket as they are imported.
        import google.auth
        from google.pubsub_v1.services.publisher import PublisherAsyncClient
        from google.pubsub_v1.services.publisher.transports import PublisherGrpcAsyncIOTransport
        from google.pubsub_v1.services.subscriber import SubscriberAsyncClient
        from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcAsyncIOTransport

        options = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
        if self.address.endpoint is None:
            # Looks for credentials in files and at the machine's metadata server.
            credentials, _ = await asyncio.to_thread(google.auth.default, scopes=_SCOPES)
            channel = PublisherGrpcAsyncIOTransport.create_channel(
                f"{_SERVICE}:443", credentials=credentials, options=options
            )
        else:
            channel = grpc.aio.insecure_channel(self.address.endpoint, options=options)
        self._channel = channel
        self._publisher = PublisherAsyncClient(transport=PublisherGrpcAsyncIOTransport(channel=channel))
        self._subscriber = SubscriberAsyncClient(transport=SubscriberGrpcAsyncIOTransport(channel=channel))
        await channel.channel_ready()

    async def close(self) -> None:
        """Give the connection back."""
        channel, self._channel, self._publisher, self._subscriber = self._channel, None, None, None
        if channel is not None:
            await channel.close()

    @contextmanager
    def mapped_errors(self) -> Iterator[None]:
        """The client's errors as ours; what is not there is a lane that is gone."""
        try:
            yield
        except NotFound as error:
            raise LaneGone(f"Pub/Sub has it no more: {error.message}") from error
        except (GoogleAPIError, GoogleAuthError, grpc.RpcError) as error:
            raise BrokerUnavailable(f"Pub/Sub gave no answer: {error}") from error
        except asyncio.CancelledError:
            # Closing the channel cancels what is under way in it.
            task = asyncio.current_task()
            if self._channel is None and not (task is not None and task.cancelling()):
                raise _closed() from None
            raise

    @property
    def publisher(self) -> PublisherAsyncClient:
        """Of topics."""
        if self._publisher is None:
            raise _closed()
        return self._publisher

    @property
    def subscriber(self) -> SubscriberAsyncClient:
        """Of subscriptions."""
        if self._subscriber is None:
            raise _closed()
        return self._subscriber

    @property
    def project(self) -> str:
        """Its full name."""
        return f"projects/{self.address.project}"

    def topic(self, name: str) -> str:
        """The full name of one of ours."""
        return f"{self.project}/topics/{self._id(name)}"

    def subscription(self, name: str) -> str:
        """The full name of one of ours."""
        return f"{self.project}/subscriptions/{self._id(name)}"

    def _id(self, name: str) -> str:
        whole = self.prefix + quote(name, safe="._~+-")
        if len(whole) <= _LONGEST_ID:
            return whole
        return f"{whole[: _LONGEST_ID - 41]}~{hashlib.sha256(whole.encode()).hexdigest()[:40]}"


def _closed() -> MessagingClosed:
    return MessagingClosed("the Pub/Sub backend is not open; use it in `async with`, or call open()")
