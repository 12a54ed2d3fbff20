"""Many WebSocket clients in one process, as cheap as Python allows: prints when each update came.

    python clients.py PORT N_CLIENTS N_UPDATES SUBSCRIBE MARK OUTPUT [SLOW]

Each takes N_UPDATES messages that hold MARK: the last field, a number of nanoseconds; or the event of a job's end, whose
id is taken and the wall clock read. With SLOW the first client reads nothing.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from pathlib import Path

HANDSHAKE = (
    "GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
JOB_ID = b'"job_id":"'
SUBSCRIBE = json.dumps({"type": "subscribe", "name": "all"}).encode()


class Client(asyncio.Protocol):
    def __init__(self, run: Run, is_slow: bool) -> None:
        self.run, self.is_slow = run, is_slow
        self.buffer, self.is_open, self.is_subscribed, self.n_taken = b"", False, False, 0

    def connection_made(self, transport) -> None:
        self.transport = transport
        transport.write(HANDSHAKE.format(port=self.run.port).encode())

    def connection_lost(self, error) -> None:
        if not self.is_slow and self.n_taken < self.run.n_updates:
            self.run.n_lost += 1
            self.run.ended()

    def data_received(self, data: bytes) -> None:
        now = time.time_ns() if self.run.is_wall else time.monotonic_ns()
        self.buffer += data
        if not self.is_open:
            if b"\r\n\r\n" not in self.buffer:
                return
            self.buffer = self.buffer.partition(b"\r\n\r\n")[2]
            self.is_open = True
            if self.run.subscribes:
                self.transport.write(bytes([0x81, 0x80 | len(SUBSCRIBE), 0, 0, 0, 0]) + SUBSCRIBE)
            else:
                self.subscribed()
        self.take_frames(now)

    def take_frames(self, now: int) -> None:
        data, at, mark = self.buffer, 0, self.run.mark
        while len(data) - at >= 2:
            length, head = data[at + 1], 2
            if length == 126:
                length, head = int.from_bytes(data[at + 2 : at + 4], "big"), 4
            elif length == 127:
                length, head = int.from_bytes(data[at + 2 : at + 10], "big"), 10
            end = at + head + length
            if end > len(data):
                break
            found = data.find(mark, at, end)
            if found >= 0:
                start = found + len(mark)
                if self.run.is_wall:
                    start = data.index(JOB_ID, start, end) + len(JOB_ID)
                    self.run.told.append((data[start : start + 36], now))
                else:
                    self.run.told.append((data[start:end].partition(b"}")[0], now))
                self.n_taken += 1
                if self.n_taken == self.run.n_updates:
                    self.run.ended()
            elif not self.is_subscribed and data.find(b'"subscribed"', at, end) >= 0:
                self.subscribed()
            at = end
        self.buffer = data[at:]

    def subscribed(self) -> None:
        self.is_subscribed = True
        if self.is_slow:
            self.transport.pause_reading()
        self.run.ready()


class Run:
    def __init__(self, arguments: list[str]) -> None:
        self.port, self.n_clients, self.n_updates = map(int, arguments[:3])
        self.subscribes, self.mark = arguments[3] == "1", arguments[4].encode()
        self.output, self.has_slow = Path(arguments[5]), arguments[6:] == ["slow"]
        self.is_wall = b"completed" in self.mark
        self.told: list[tuple[bytes, int]] = []
        self.n_ready = self.n_ended = self.n_lost = 0
        self.all_ready, self.all_ended = asyncio.Event(), asyncio.Event()

    def ready(self) -> None:
        self.n_ready += 1
        if self.n_ready == self.n_clients:
            self.all_ready.set()

    def ended(self) -> None:
        self.n_ended += 1
        if self.n_ended == self.n_clients - self.has_slow:
            self.all_ended.set()

    async def go(self) -> None:
        loop = asyncio.get_running_loop()
        for number in range(self.n_clients):
            is_slow = self.has_slow and number == 0
            connection = socket.create_connection(("127.0.0.1", self.port))
            if is_slow:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            await loop.create_connection(lambda is_slow=is_slow: Client(self, is_slow), sock=connection)
        await self.all_ready.wait()
        print("ready", flush=True)
        try:
            await asyncio.wait_for(self.all_ended.wait(), 120.0)
        except TimeoutError:
            print(f"only {self.n_ended} of {self.n_clients} clients got all", flush=True)
        lines = (f"{stamp.decode()} {at}" for stamp, at in self.told)
        self.output.write_text("\n".join(lines))
        print(f"done, {self.n_lost} lost", flush=True)


async def main() -> None:
    await Run(sys.argv[1:]).go()


asyncio.run(main())
