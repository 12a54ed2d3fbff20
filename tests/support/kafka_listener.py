"""What a client of Kafka meets first: a listener that tells its versions and its brokers, or does not."""

from __future__ import annotations

import asyncio
import ssl
import struct
from contextlib import suppress
from types import TracebackType

from aiokafka.protocol.admin import ApiVersionResponse_v0
from aiokafka.protocol.metadata import MetadataResponse_v1

METADATA, VERSIONS = 3, 18


class KafkaListener:
    """Listens on loopback, in the loop of the test that enters it. Names itself as the only broker.

    ``held``: the kinds of questions that wait for an answer until `answer_all`.
    """

    def __init__(self, *held: int, tls: ssl.SSLContext | None = None) -> None:
        self.held = set(held)
        self._tls = tls
        self._questions: asyncio.Queue[int] = asyncio.Queue()
        self._answering = asyncio.Condition()
        self._writers: set[asyncio.StreamWriter] = set()
        self._deaf: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> KafkaListener:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # A connection that was just accepted becomes one of ours in the loop's next turn.
        await asyncio.sleep(0.01)
        await self.leave()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def address(self) -> str:
        """For `bootstrap_servers`."""
        return f"127.0.0.1:{self.port}"

    async def asked(self, kind: int) -> None:
        """Wait for a question of this kind; those before it are forgotten."""
        async with asyncio.timeout(10.0):
            while await self._questions.get() != kind:
                pass

    def hold(self, kind: int) -> None:
        """Let what is asked of this kind from now on wait for its answer."""
        self.held.add(kind)
        self._questions = asyncio.Queue()

    async def answer_all(self) -> None:
        """Hold no answers back any more."""
        async with self._answering:
            self.held.clear()
            self._answering.notify_all()

    def read_no_more(self) -> None:
        """Leave what comes from now on over the connections that there are where it is."""
        for writer in self._writers:
            reading = writer.transport
            assert isinstance(reading, asyncio.ReadTransport)
            reading.pause_reading()
        self._deaf |= self._writers

    async def leave(self) -> None:
        """Listen no more, and end every connection in order; those that are not read from are cut."""
        self._server.close()
        for writer in self._deaf:
            writer.transport.abort()
        for writer in self._writers:
            writer.close()
        for writer in self._writers:
            with suppress(OSError):
                await writer.wait_closed()
        self._writers.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        with suppress(OSError, EOFError, asyncio.CancelledError):
            while True:
                (n_bytes,) = struct.unpack(">i", await reader.readexactly(4))
                question = await reader.readexactly(n_bytes)
                (kind, _, number) = struct.unpack(">hhi", question[:8])
                self._questions.put_nowait(kind)
                async with self._answering:
                    await self._answering.wait_for(lambda kind=kind: kind not in self.held)
                answer = struct.pack(">i", number) + self._answer(kind)
                writer.write(struct.pack(">i", len(answer)) + answer)
        writer.close()

    def _answer(self, kind: int) -> bytes:
        if kind == VERSIONS:
            found: bytes = ApiVersionResponse_v0(0, [(METADATA, 0, 1), (VERSIONS, 0, 0)]).encode()
        else:
            found = MetadataResponse_v1([(1, "127.0.0.1", self.port, None)], 1, []).encode()
        return found
