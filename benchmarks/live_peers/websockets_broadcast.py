"""The websockets library's own broadcast of what the same stream holds: no filters, ids, resume or limits."""

from __future__ import annotations

import asyncio
import sys

from redis.asyncio import Redis
from websockets.asyncio.server import ServerConnection, broadcast, serve


async def main(url: str) -> None:
    connections: set[ServerConnection] = set()

    async def handle(connection: ServerConnection) -> None:
        connections.add(connection)
        try:
            await connection.wait_closed()
        finally:
            connections.discard(connection)

    async with serve(handle, "127.0.0.1", 0, compression=None) as server:
        print(f"web page: http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", flush=True)
        redis, last = Redis.from_url(url), "$"
        while True:
            for _, entries in await redis.xread({"dashboard:stream": last}, count=200, block=5_000):
                for entry, fields in entries:
                    last = entry
                    broadcast(connections, fields[b"data"].decode())


asyncio.run(main(sys.argv[1]))
