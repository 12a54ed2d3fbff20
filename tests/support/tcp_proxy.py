"""A TCP proxy on loopback that can be slow, cut, reset, stall and refuse."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

_CHUNK_BYTES = 65_536


class TcpProxy:
    """Forwards ``port`` to a server's port, from a thread of its own.

    ``latency_s`` (each way) and ``cut_after_bytes`` (of what the server sends on one connection; then
    it is reset) may be set at any time.
    """

    def __init__(self, target_port: int) -> None:
        """Listening when this returns."""
        self.target_port = target_port
        self.latency_s = 0.0
        self.cut_after_bytes: int | None = None
        self.n_connections = 0  #: accepted so far
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy", daemon=True)
        self._thread.start()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False
        self._server: asyncio.Server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def reset(self) -> None:
        """End every connection with a TCP reset; new ones are taken."""
        self._run(self._end_all(reset=True))

    def cut(self) -> None:
        """End every connection in order; new ones are taken."""
        self._run(self._end_all(reset=False))

    def stall(self) -> None:
        """Keep every connection open and let nothing through, in either direction."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def flow(self) -> None:
        """End a stall: what was held back goes on. Also ends `refuse`."""
        self._refusing = False
        self._loop.call_soon_threadsafe(self._flowing.set)

    def refuse(self) -> None:
        """Reset every connection, those to come too, until `flow`."""
        self._refusing = True
        self.reset()

    def close(self) -> None:
        """Stop listening, end every connection and the thread."""
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)
        self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10.0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.n_connections += 1
        if self._refusing:
            _end(writer, reset=True)
            return
        try:
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            _end(writer, reset=True)
            return
        if self._refusing:
            _end(writer, reset=True)
            _end(to_writer, reset=True)
            return
        pair = (writer, to_writer)
        self._pairs.add(pair)
        there = asyncio.create_task(self._pump(reader, to_writer, None))
        back = asyncio.create_task(self._pump(to_reader, writer, pair))
        self._tasks |= {there, back}
        # Whichever side ends first ends the other.
        await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
        for end in pair:
            _end(end, reset=False)
        await asyncio.wait({there, back}, timeout=1.0)
        there.cancel()
        back.cancel()
        self._tasks -= {there, back}
        self._pairs.discard(pair)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        counted: tuple[asyncio.StreamWriter, asyncio.StreamWriter] | None,
    ) -> None:
        n_bytes = 0
        with suppress(OSError, asyncio.CancelledError):
            while chunk := await reader.read(_CHUNK_BYTES):
                if self.latency_s:
                    await asyncio.sleep(self.latency_s)
                await self._flowing.wait()
                if counted is not None and self.cut_after_bytes is not None:
                    room = self.cut_after_bytes - n_bytes
                    if len(chunk) >= room:
                        writer.write(chunk[:room])
                        with suppress(OSError):
                            await writer.drain()
                        for end in counted:
                            _end(end, reset=True)
                        return
                n_bytes += len(chunk)
                writer.write(chunk)
                await writer.drain()

    async def _end_all(self, *, reset: bool) -> None:
        for pair in list(self._pairs):
            for writer in pair:
                _end(writer, reset=reset)

    async def _close(self) -> None:
        # asyncio forgets, unclosed, what was accepted a moment before a server is closed: first no more are
        # accepted, and the last ones become connections in the loop's next turn.
        for listening in self._server.sockets:
            self._loop.remove_reader(listening.fileno())
        await asyncio.sleep(0.01)
        self._server.close()
        self._refusing = True
        self._flowing.set()
        await self._end_all(reset=True)
        # Connections that were just taken, too; each is closed in the turn after its last task ended.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
        await asyncio.sleep(0.01)


def _end(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    if reset:
        sock = writer.get_extra_info("socket")
        if sock is not None:
            # Zero linger makes close() send RST.
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.close()
